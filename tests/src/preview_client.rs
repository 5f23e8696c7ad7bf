//! Preview client: opens the ports of a project through the gateway, like a browser: by host name, with
//! cookies.

use std::time::Duration;

use reqwest::{StatusCode, header};

use crate::world::World;

const TIMEOUT: Duration = Duration::from_secs(300);

/// Response of a preview.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub body: String,
    pub headers: header::HeaderMap,
}

/// Client of previews, with or without a token.
pub struct PreviewClient {
    http: reqwest::Client,
    port: u16,
    token: Option<String>,
}

impl PreviewClient {
    /// Client with the owner's token.
    #[must_use]
    pub fn owner(world: &World) -> Self {
        Self {
            token: Some(world.token.clone()),
            ..Self::anonymous(world)
        }
    }

    /// Client with this token.
    #[must_use]
    pub fn with_token(world: &World, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..Self::anonymous(world)
        }
    }

    /// Client without authentication.
    #[must_use]
    pub fn anonymous(world: &World) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .expect("a client");
        Self {
            http,
            port: world.port(),
            token: None,
        }
    }

    /// Sends a GET request for `path` to `project`'s `port`.
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
