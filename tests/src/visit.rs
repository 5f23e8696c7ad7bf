//! Opening what a project serves, as a browser would: by its host name, with redirects and
//! cookies.

use std::time::Duration;

use reqwest::{StatusCode, header};

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(180);

/// What came back.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub body: String,
    pub headers: header::HeaderMap,
}

/// One visitor, with cookies of their own.
pub struct Visitor {
    http: reqwest::Client,
    port: u16,
    token: Option<String>,
}

impl Visitor {
    /// Somebody who may see the world owner's projects.
    #[must_use]
    pub fn owner(world: &World) -> Self {
        Self {
            token: Some(world.token.clone()),
            ..Self::stranger(world)
        }
    }

    /// Whoever has this token.
    #[must_use]
    pub fn by(world: &World, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..Self::stranger(world)
        }
    }

    /// Somebody who is not signed in.
    #[must_use]
    pub fn stranger(world: &World) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        Self {
            http,
            port: world.port(),
            token: None,
        }
    }

    /// Gets `path` of `project`'s `port`.
    pub async fn open(&self, project: &str, port: u16, path: &str) -> Page {
        let mut request = self
            .http
            .get(format!("http://127.0.0.1:{}{path}", self.port))
            .header(header::HOST, format!("{project}--{port}.localhost:{}", self.port));
        if let Some(token) = &self.token {
            request = request.header("x-fsa-token", token);
        }
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status(), response.headers().clone());
        Page {
            status,
            headers,
            body: response.text().await.expect("a body"),
        }
    }
}
