//! Accounts: the cost of authentication of a request, and of signing in.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use fsa_tests::World;
use futures_util::{StreamExt as _, stream};
use reqwest::{Client, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    api::wrk,
    report::{Row, Target},
};

/// Number of sign-ins by link, and by password.
const LINK_SIGN_INS: u32 = 400;
const PASSWORD_SIGN_INS: u32 = 80;
/// Attempts from one address, of which the server counts.
const ATTEMPTS_PER_ADDRESS: u32 = 8;
const CONCURRENCY: usize = 8;
const PASSWORD: &str = "a password of the benchmark";

pub async fn measure(world: &World) -> Vec<Row> {
    let mut rows = authorization(world).await;
    rows.extend(sign_in(world).await);
    rows
}

/// The server measures which part of a request is its authentication: so the floor is the rest of the same
/// requests. The permissions of a user in a project are decided in the query that reads the project, and
/// no request could do without that one.
async fn authorization(world: &World) -> Vec<Row> {
    let api = world.api();
    let project = api.create_running("who").await;
    let before = authentication_seconds(world).await;
    let url = format!("{}/api/sandbox/{}", world.url(), project.id);
    let header = format!("Authorization: Bearer {}", world.token);
    wrk(&url, 32, 5, &[header.as_str()]);
    let after = authentication_seconds(world).await;
    api.delete("who").await;
    let (authentication, rest) = (after.0 - before.0, (after.1 - before.1) - (after.0 - before.0));
    vec![Row::new(
        "authorization, of the rest of GET /api/sandbox/{id}",
        100.0 * authentication / rest,
        "%",
        Target::AtMost(5.0),
    )]
}

/// Seconds of the authentication, and of the requests for a sandbox's status altogether.
async fn authentication_seconds(world: &World) -> (f64, f64) {
    let text = Client::new()
        .get(format!("{}/metrics", world.url()))
        .send()
        .await
        .expect("metrics")
        .text()
        .await
        .expect("metrics are text");
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
            .unwrap_or_default()
    };
    (
        value("fsa_authentication_duration_seconds_sum"),
        value("fsa_http_request_duration_seconds_sum{route=\"/api/sandbox/{project}\"}"),
    )
}

/// Complete sign-ins: the credential is checked, a session is written, and the response has its cookie.
async fn sign_in(world: &World) -> Vec<Row> {
    let api = world.api();
    let mut links = Vec::new();
    for _ in 0..LINK_SIGN_INS {
        let link_response: Value = api.send(Method::POST, "/api/auth/links", &json!({})).await;
        let url = link_response["url"].as_str().expect("a link").to_owned();
        links.push(json!({"token": url.split_once('#').expect("a token").1}));
    }
    let by_link = rate(world, "/api/auth/link", links).await;
    set_password(world).await;
    let bodies = (0..PASSWORD_SIGN_INS)
        .map(|_| json!({"login": "owner", "password": PASSWORD}))
        .collect();
    let by_password = rate(world, "/api/auth/password", bodies).await;
    vec![
        Row::new(
            "sign-in by link, 8 clients",
            by_link,
            "/s",
            Target::AtLeast(200.0),
        ),
        // A password's hash is slow on purpose: 26 ms of a processor, which bounds this figure.
        Row::new(
            "sign-in by password, 8 clients (floor: Argon2id alone, on two threads)",
            by_password,
            "/s",
            Target::None,
        )
        .with_floor(argon2_rate()),
    ]
}

/// Only a signed-in user may set their password.
async fn set_password(world: &World) {
    let link_response: Value = world
        .api()
        .send(Method::POST, "/api/auth/links", &json!({}))
        .await;
    let url = link_response["url"].as_str().expect("a link").to_owned();
    let body = json!({"token": url.split_once('#').expect("a token").1});
    let client = Client::new();
    let request = client.post(format!("{}/api/auth/link", world.url())).json(&body);
    let response = request.send().await.expect("an answer");
    let cookie = response.headers()[header::SET_COOKIE].to_str().expect("a cookie");
    let pair = cookie.split(';').next().expect("a cookie").to_owned();
    let set = client
        .put(format!("{}/api/auth/password", world.url()))
        .header(header::COOKIE, pair)
        .header(header::ORIGIN, format!("http://localhost:{}", world.port()))
        .json(&json!({"password": PASSWORD}));
    let status = set.send().await.expect("an answer").status();
    assert!(status.is_success(), "{status}");
}

async fn rate(world: &World, path: &str, bodies: Vec<Value>) -> f64 {
    let url = format!("{}{path}", world.url());
    // Attempts are counted by address, and the loopback has many.
    let clients: Vec<(Client, &[Value])> = bodies
        .chunks(ATTEMPTS_PER_ADDRESS as usize)
        .zip(2_u32..)
        .map(|(bodies, number)| {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 0)) + number);
            let client = Client::builder()
                .local_address(IpAddr::V4(address))
                .timeout(Duration::from_secs(30))
                .build()
                .expect("a client");
            (client, bodies)
        })
        .collect();
    let started = Instant::now();
    stream::iter(clients)
        .for_each_concurrent(CONCURRENCY, |(client, bodies)| {
            let url = &url;
            async move {
                for body in bodies {
                    let response = client.post(url).json(body).send().await.expect("an answer");
                    let status = response.status();
                    assert_eq!(
                        status,
                        StatusCode::OK,
                        "{}",
                        response.text().await.unwrap_or_default()
                    );
                }
            }
        })
        .await;
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    let count = bodies.len() as f64;
    count / started.elapsed().as_secs_f64()
}

/// Argon2id with the server's parameters, a second on each of two threads: it hashes two at once.
fn argon2_rate() -> f64 {
    let hashed = Argon2::default()
        .hash_password(PASSWORD.as_bytes())
        .expect("the default parameters are valid")
        .to_string();
    let started = Instant::now();
    let one = |hashed: &str| {
        let mut count = 0_u32;
        while started.elapsed() < Duration::from_secs(1) {
            let hashed = PasswordHash::new(hashed).expect("a hash");
            assert!(
                Argon2::default()
                    .verify_password(PASSWORD.as_bytes(), &hashed)
                    .is_ok()
            );
            count += 1;
        }
        count
    };
    let count = std::thread::scope(|scope| {
        let other = scope.spawn(|| one(&hashed));
        one(&hashed) + other.join().expect("a thread")
    });
    f64::from(count) / started.elapsed().as_secs_f64()
}
