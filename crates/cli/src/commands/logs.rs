//! `fsa logs`.

use fsa_model::{
    api::Page,
    sandboxd::{LogLine, LogSource},
};

use futures_util::TryStreamExt as _;

use crate::{
    args::{Logs, LogsSource},
    client::{Client, encode},
    failure::{Failure, Outcome},
    output,
};

pub async fn run(client: &Client, logs: &Logs, json: bool) -> Outcome {
    let path = format!("/api/projects/{}/logs", encode(&logs.project));
    if !logs.follow {
        let source = match logs.source {
            LogsSource::Sandbox => "",
            LogsSource::Database => "&source=database",
        };
        let page: Page<LogLine> = client.get(&format!("{path}?follow=false{source}")).await?;
        output::print(json, &page, |page| page.items.iter().for_each(show));
        return Ok(0);
    }
    let mut stream = client.events(&path, None).await?;
    while let Some(message) = stream.try_next().await? {
        if json {
            output::line(&message.data);
        } else {
            let line: LogLine = serde_json::from_str(&message.data).map_err(|error| {
                Failure::failed(format!("the server sent a line that cannot be read: {error}"))
            })?;
            show(&line);
        }
    }
    Ok(0)
}

fn show(line: &LogLine) {
    match line.source {
        LogSource::Stdout | LogSource::Database => output::line(&line.text),
        LogSource::Stderr | LogSource::Git => output::notice(&line.text),
        LogSource::Sandbox => output::notice(&format!("[{}] {}", line.at.format("%T"), line.text)),
    }
}
