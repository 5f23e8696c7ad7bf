//! `fsa events`.

use fsa_model::{api::Page, event::Event};

use futures_util::TryStreamExt as _;

use crate::{
    args,
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
};

pub async fn run(client: &Client, events: &args::Events, json: bool) -> Outcome {
    let path = match &events.project {
        Some(project) => format!("/api/projects/{}/events", encode(project)),
        None => "/api/events".to_owned(),
    };
    if !events.follow {
        let page: Page<Event> = client.get(&format!("{path}?follow=false")).await?;
        output::print(json, &page, |page| page.items.iter().for_each(show));
        return Ok(0);
    }
    let mut last: Option<String> = None;
    loop {
        let mut stream = client.events(&path, last.as_deref()).await?;
        let before = last.clone();
        while let Some(message) = stream.try_next().await? {
            if json {
                output::line(&message.data);
            } else {
                let event: Event = serde_json::from_str(&message.data).map_err(|error| {
                    Failure::failed(format!("the server sent an event that cannot be read: {error}"))
                })?;
                show(&event);
            }
            if !message.id.is_empty() {
                last = Some(message.id);
            }
        }
        // The server is draining: reconnect. Stop if a stream brings nothing new.
        if last == before {
            return Ok(0);
        }
    }
}

fn show(event: &Event) {
    output::line(&format!(
        "{}  {}",
        event.created_at.format("%F %T"),
        event.message
    ));
}
