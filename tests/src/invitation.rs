//! Invitations: new users of a world, who join with the link that an owner made.

use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};

use crate::{Api, World};

/// Invites a new user. Returns an API client with their token.
pub async fn join(world: &World, login: &str) -> Api {
    Session::new(world, login).await.token(world).await
}

/// Invites a new user, who sets this password.
pub async fn join_with_password(world: &World, login: &str, password: &str) {
    let session = Session::new(world, login).await;
    let request = session.request(world, Method::PUT, "/api/auth/password");
    let response = request.json(&json!({"password": password})).send().await;
    let response = response.expect("an answer");
    assert!(response.status().is_success(), "{}", response.status());
}

/// Session of a new user.
struct Session {
    http: reqwest::Client,
    cookie: String,
}

impl Session {
    async fn new(world: &World, login: &str) -> Self {
        let invite: Value = world
            .api()
            .send(Method::POST, "/api/users/invites", &json!({}))
            .await;
        let url = invite["url"].as_str().expect("a link");
        let token = url.split_once('#').expect("a token").1;
        let http = world.api().http;
        let body = json!({"token": token, "login": login});
        let request = http.post(format!("{}/api/auth/link", world.url())).json(&body);
        let joined = request.send().await.expect("an answer");
        assert_eq!(joined.status(), StatusCode::OK);
        let cookie = joined.headers()[header::SET_COOKIE].to_str().expect("text");
        let cookie = cookie.split(';').next().expect("a cookie").to_owned();
        Self { http, cookie }
    }

    fn request(&self, world: &World, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", world.url()))
            .header(header::COOKIE, &self.cookie)
            .header(header::ORIGIN, format!("http://localhost:{}", world.port()))
    }

    async fn token(&self, world: &World) -> Api {
        let request = self.request(world, Method::POST, "/api/tokens");
        let made = request
            .json(&json!({"name": "test", "signIn": true}))
            .send()
            .await;
        let made: Value = made.expect("an answer").json().await.expect("a token");
        Api::new(&world.url(), made["token"].as_str().expect("a token"))
    }
}
