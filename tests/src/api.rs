//! API client, whose assertions include the server's response.

use std::time::Duration;

use fsa_model::{
    Phase,
    api::{CreateProject, Page, Project, Sandbox},
    sandboxd::{ExecRequest, ExecResult},
};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The API as one user.
#[derive(Clone)]
pub struct Api {
    pub http: reqwest::Client,
    pub url: String,
    pub token: String,
}

impl Api {
    #[must_use]
    pub fn new(url: &str, token: &str) -> Self {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self {
            http,
            url: url.to_owned(),
            token: token.to_owned(),
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
    }

    /// Sends, and returns status and JSON (or text as a JSON string).
    pub async fn answer(&self, request: RequestBuilder) -> (StatusCode, Value) {
        let response = request.send().await.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Sends a GET request that must succeed.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, value) = self.answer(self.request(Method::GET, path)).await;
        assert!(status.is_success(), "GET {path}: {status} {value}");
        serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("GET {path}: {error} in {value}"))
    }

    /// Sends a write request that must succeed.
    pub async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> T {
        let (status, value) = self.answer(self.request(method.clone(), path).json(body)).await;
        assert!(status.is_success(), "{method} {path}: {status} {value}");
        serde_json::from_value(value.clone())
            .unwrap_or_else(|error| panic!("{method} {path}: {error} in {value}"))
    }

    /// Creates a project from the template `host` and does not wait.
    pub async fn create(&self, name: &str) -> Project {
        self.create_as(CreateProject {
            name: name.into(),
            template: Some("host".into()),
            ..CreateProject::default()
        })
        .await
    }

    pub async fn create_as(&self, request: CreateProject) -> Project {
        self.send(Method::POST, "/api/projects", &request).await
    }

    /// Creates a project from the template `host` and waits until it runs.
    pub async fn create_running(&self, name: &str) -> Project {
        let project = self.create(name).await;
        self.until_running(name).await;
        project
    }

    pub async fn sandbox(&self, project: &str) -> Sandbox {
        self.get(&format!("/api/sandbox/{project}")).await
    }

    pub async fn until_running(&self, project: &str) -> Sandbox {
        self.until(project, Phase::Running).await
    }

    /// Waits on the event stream until the sandbox has this phase.
    pub async fn until(&self, project: &str, phase: Phase) -> Sandbox {
        let wait = async {
            loop {
                let path = format!("/api/projects/{project}/events?tail=true");
                let mut stream = self
                    .request(Method::GET, &path)
                    .header(header::ACCEPT, "text/event-stream")
                    .send()
                    .await
                    .expect("an event stream");
                loop {
                    let sandbox = self.sandbox(project).await;
                    if sandbox.status == phase {
                        return sandbox;
                    }
                    match stream.chunk().await {
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    }
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, wait).await {
            Ok(sandbox) => sandbox,
            Err(_) => panic!(
                "{project} is not {phase:?} after {TIMEOUT:?}: {:#?}",
                self.sandbox(project).await
            ),
        }
    }

    /// Runs a command that may fail.
    pub async fn try_exec(&self, project: &str, command: &[&str]) -> ExecResult {
        let request = ExecRequest {
            command: command.iter().map(|text| (*text).to_owned()).collect(),
            ..ExecRequest::default()
        };
        self.send(Method::POST, &format!("/api/projects/{project}/exec"), &request)
            .await
    }

    /// Runs a shell command that must succeed, and returns its output.
    pub async fn shell(&self, project: &str, script: &str) -> String {
        let result = self.try_exec(project, &["/bin/sh", "-c", script]).await;
        assert_eq!(
            result.exit_code, 0,
            "{script}: {}{}",
            result.stdout, result.stderr
        );
        result.stdout
    }

    pub async fn projects(&self) -> Vec<Project> {
        let mut found = Vec::new();
        let mut path = "/api/projects".to_owned();
        loop {
            let page: Page<Project> = self.get(&path).await;
            found.extend(page.items);
            match page.next_cursor {
                Some(cursor) => path = format!("/api/projects?cursor={cursor}"),
                None => return found,
            }
        }
    }

    /// Deletes all projects and waits until they are gone.
    pub async fn delete_all_projects(&self) {
        for project in self.projects().await {
            self.delete(&project.id.to_string()).await;
        }
    }

    /// Deletes a project and waits until everything of it is gone.
    pub async fn delete(&self, project: &str) {
        let request = self
            .request(Method::DELETE, &format!("/api/projects/{project}"))
            .header("prefer", "wait=60");
        let (status, value) = self.answer(request).await;
        assert!(status.is_success(), "DELETE {project}: {status} {value}");
        let wait = async {
            loop {
                let (status, _) = self
                    .answer(self.request(Method::GET, &format!("/api/projects/{project}")))
                    .await;
                if status == StatusCode::NOT_FOUND {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, wait)
            .await
            .unwrap_or_else(|_| panic!("{project} is not gone after {TIMEOUT:?}"));
    }
}

impl Api {
    /// Waits until this kind of event is among the project's.
    pub async fn until_event(&self, project: &str, kind: &str) {
        self.until_event_matching(project, kind, |event| event["kind"] == kind)
            .await;
    }

    /// Waits until an event of the project, past or future, matches. `what` describes it for the panic message.
    pub async fn until_event_matching(
        &self,
        project: &str,
        what: &str,
        matches: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut events = Vec::new();
        let wait = async {
            let mut stream = self
                .request(Method::GET, &format!("/api/projects/{project}/events"))
                .header(header::ACCEPT, "text/event-stream")
                .send()
                .await
                .expect("an event stream");
            let mut text = Vec::new();
            loop {
                let chunk = stream.chunk().await.expect("events");
                text.extend_from_slice(&chunk.expect("the stream goes on"));
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let Some(data) = line.strip_prefix(b"data:") else {
                        continue;
                    };
                    let event: Value = serde_json::from_slice(data).expect("an event is JSON");
                    if matches(&event) {
                        return event;
                    }
                    events.push(event);
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, wait).await {
            Ok(event) => event,
            Err(_) => panic!("{project} has no event {what:?} after {TIMEOUT:?}: {events:#?}"),
        }
    }

    /// Waits on the event stream until `port` is listed.
    pub async fn until_port(&self, project: &str, port: u16) {
        let wait = async {
            loop {
                let path = format!("/api/projects/{project}/events?tail=true");
                let mut stream = self
                    .request(Method::GET, &path)
                    .header(header::ACCEPT, "text/event-stream")
                    .send()
                    .await
                    .expect("an event stream");
                loop {
                    if self
                        .sandbox(project)
                        .await
                        .ports
                        .iter()
                        .any(|open| open.port == port)
                    {
                        return;
                    }
                    match stream.chunk().await {
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    }
                }
            }
        };
        if tokio::time::timeout(TIMEOUT, wait).await.is_err() {
            let logs: Value = self
                .get(&format!("/api/projects/{project}/logs?follow=false"))
                .await;
            panic!("nothing listens on {port} of {project} after {TIMEOUT:?}: {logs:#}");
        }
    }

    /// Puts a file into the project's folder.
    pub async fn put(&self, project: &str, path: &str, content: &str) {
        let request = self
            .request(Method::PUT, &format!("/api/projects/{project}/files?path={path}"))
            .body(content.to_owned());
        let (status, value) = self.answer(request).await;
        assert!(status.is_success(), "PUT {path}: {status} {value}");
    }
}
