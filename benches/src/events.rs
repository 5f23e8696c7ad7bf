//! Event stream of all projects: the benchmarks wait on it for a running sandbox, and do not poll.

use std::{collections::HashSet, time::Duration};

use fsa_model::api::Project;
use fsa_tests::Api;
use reqwest::{Method, header};

/// Timeout for a thousand sandboxes.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Events from now on.
pub struct Events(reqwest::Response);

impl Events {
    pub async fn open(api: &Api) -> Self {
        let stream = api
            .request(Method::GET, "/api/events?tail=true")
            .header(header::ACCEPT, "text/event-stream")
            .timeout(TIMEOUT)
            .send();
        Self(stream.await.expect("an event stream"))
    }

    /// Waits until each of them is reported to run.
    pub async fn until_running(mut self, projects: &[Project]) {
        let mut waiting: HashSet<String> = projects.iter().map(|project| project.id.to_string()).collect();
        let mut text = String::new();
        while !waiting.is_empty() {
            let chunk = self.0.chunk().await.expect("events").expect("the stream goes on");
            text.push_str(&String::from_utf8_lossy(&chunk));
            while let Some(end) = text.find('\n') {
                let line: String = text.drain(..=end).collect();
                let Some(event) = line.strip_prefix("data:") else {
                    continue;
                };
                let event: serde_json::Value = serde_json::from_str(event).expect("an event");
                if event["kind"] == "phaseChanged" && event["data"]["phase"] == "RUNNING" {
                    waiting.remove(event["projectId"].as_str().unwrap_or_default());
                }
            }
        }
    }
}
