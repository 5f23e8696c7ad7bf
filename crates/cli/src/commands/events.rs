//! `fsa events`.

use fsa_model::{api::Page, event::Event};

use crate::{
    args,
    client::{Client, encoded},
    failure::{Failure, Outcome},
    output,
    sse::Events,
};

pub async fn run(client: &Client, events: &args::Events, json: bool) -> Outcome {
    let path = match &events.project {
        Some(project) => format!("/api/projects/{}/events", encoded(project)),
        None => "/api/events".to_owned(),
    };
    if !events.follow {
        let page: Page<Event> = client.get(&format!("{path}?follow=false")).await?;
        output::print(json, &page, |page| page.items.iter().for_each(show));
        return Ok(0);
    }
    let mut last: Option<String> = None;
    loop {
        let mut stream = Events::new(client.stream(&path, last.as_deref()).await?);
        let seen = last.clone();
        while let Some(message) = stream.next().await? {
            if json {
                output::line(&message.data);
            } else {
                let event: Event = serde_json::from_str(&message.data).map_err(|error| {
                    Failure::failed(format!("the server sent an event that makes no sense: {error}"))
                })?;
                show(&event);
            }
            last = message.id.or(last);
        }
        // The server drains: another one is asked for the rest, and its refusal ends this.
        if last == seen {
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
