//! URL tests: every URL in a response opens a page in a browser that follows it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use fsa_server::reconcile::Worker;
use http::{StatusCode, header};
use serde_json::{Value, json};
use url::Url;

use crate::common::{ApiResponse, Client, World, running_project};

/// The web page's routes.
const ROUTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../web/src/router.tsx");

const PAGE: &[u8] = b"<!doctype html><title>the web page</title>";

fn files(path: &str) -> Option<Cow<'static, [u8]>> {
    (path == "index.html").then_some(Cow::Borrowed(PAGE))
}

/// The quoted strings of a source text.
fn strings(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

/// Whether the web page has a screen for this URL.
fn has_screen(url: &Url) -> bool {
    let router = std::fs::read_to_string(ROUTER).unwrap();
    let matches = |route: &str| {
        let (mut route, mut path) = (route.split('/'), url.path().split('/'));
        let same = route.by_ref().zip(path.by_ref()).all(|(pattern, segment)| {
            pattern == segment || (pattern.starts_with('$') && !segment.is_empty())
        });
        same && route.next().is_none() && path.next().is_none()
    };
    let routes: Vec<&str> = router
        .lines()
        .filter_map(|line| line.trim().strip_prefix("path: "))
        .flat_map(strings)
        .collect();
    let views = router
        .lines()
        .find(|line| line.starts_with("export const views"))
        .unwrap();
    assert!(routes.contains(&"/p/$project"), "{routes:?}");
    routes.into_iter().any(matches)
        && url
            .query_pairs()
            .all(|(name, value)| name == "view" && strings(views).any(|view| view == value))
}

/// A browser: cookies by host, and redirects.
struct Browser {
    client: Client,
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

impl Browser {
    async fn open(&mut self, url: &Url) -> (Url, ApiResponse) {
        let mut url = url.clone();
        for _ in 0..8 {
            let authority = url.authority().to_owned();
            let mut client = self
                .client
                .with("accept", "text/html")
                .with("host", &authority)
                .with("sec-fetch-mode", "navigate")
                .with("sec-fetch-dest", "document");
            let cookies = self.cookies.entry(authority).or_default();
            if !cookies.is_empty() {
                let pairs: Vec<_> = cookies
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                client = client.with("cookie", &pairs.join("; "));
            }
            let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
            let answer = client.get(path).await;
            for line in answer.headers.get_all(header::SET_COOKIE) {
                let pair = line.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                cookies.insert(name.to_owned(), value.to_owned());
            }
            match answer.headers.get(header::LOCATION) {
                Some(location) if answer.status.is_redirection() => {
                    url = url.join(location.to_str().unwrap()).unwrap();
                }
                _ => return (url, answer),
            }
        }
        panic!("{url} redirects without an end");
    }
}

/// Every URL in a JSON value.
fn collect(value: &Value, urls: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.starts_with("http") => {
            urls.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, urls)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, urls)),
        _ => {}
    }
}

#[tokio::test]
async fn every_url_in_an_answer_opens_a_page() {
    let world = World::with(|settings| settings.web = Some(files)).await;
    Worker::spawn(
        world.app.core().clone(),
        world.app.callback.clone(),
        world.app.shutdown.clone(),
    );
    let owner = world.owner().await;
    let mut urls = BTreeSet::new();
    let created = running_project(&owner, "todo").await;
    collect(&created, &mut urls);
    for (port, sharing) in [(3000, "link"), (5000, "public"), (8080, "private")] {
        let path = format!("/api/projects/todo/ports/{port}");
        collect(
            &owner
                .put(&path, &json!({"sharing": sharing}))
                .await
                .expect(200)
                .json(),
            &mut urls,
        );
    }
    for path in [
        "/api/projects",
        "/api/projects/todo",
        "/api/sandbox/todo",
        "/api/projects/todo/ports",
    ] {
        collect(&owner.get(path).await.expect(200).json(), &mut urls);
    }
    let link = owner.post_empty("/api/auth/links").await.expect(201).json();
    let invitation = owner.post_empty("/api/users/invites").await.expect(201).json();
    collect(&link, &mut urls);
    collect(&invitation, &mut urls);
    for kind in ["view=terminal", "todo--3000.", "todo--5000.", "/sign-in#"] {
        assert!(urls.iter().any(|url| url.contains(kind)), "{kind}: {urls:?}");
    }

    let signed_in = world.owner_in_browser().await;
    for text in urls {
        let url: Url = text.parse().unwrap();
        let session = signed_in.header("cookie").to_owned();
        let (name, value) = session.split_once('=').unwrap();
        let cookies = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let mut browser = Browser {
            client: world.anonymous(),
            cookies: BTreeMap::from([(world.address.to_string(), cookies)]),
        };

        let (end, answer) = browser.open(&url).await;

        let kind = answer.headers.get(header::CONTENT_TYPE).cloned();
        let is_html = kind.is_some_and(|kind| kind.to_str().unwrap().starts_with("text/html"));
        let shown = format!("{text} ends at {end} with {}: {}", answer.status, answer.text());
        assert!(is_html, "{shown}");
        if end.authority() == world.address.to_string() {
            assert!(answer.status == StatusCode::OK && has_screen(&end), "{shown}");
        } else {
            // The stand-in for a sandbox serves no HTTP, which the gateway reports.
            assert!(end.host_str().unwrap().starts_with("todo--"), "{shown}");
            assert!(
                answer.status.is_success() || answer.status.is_server_error(),
                "{shown}"
            );
        }
    }
}

#[test]
fn urls_without_a_screen_are_detected() {
    let has = |path: &str| has_screen(&format!("http://localhost{path}").parse().unwrap());
    assert!(has("/p/todo?view=terminal") && has("/p/todo") && has("/"));
    assert!(!has("/projects/todo/terminal") && !has("/p/todo?view=nothing") && !has("/p/"));
}

#[tokio::test]
async fn x_forwarded_for_counts_only_from_a_trusted_proxy() {
    for (proxies, expected) in [("127.0.0.0/8", "203.0.113.7"), ("10.0.0.0/8", "127.0.0.1")] {
        let world = World::with(|settings| settings.trusted_proxies = vec![proxies.parse().unwrap()]).await;
        let owner = world.owner().await;

        owner
            .with("x-forwarded-for", "198.51.100.1, 203.0.113.7")
            .post("/api/projects", &json!({"name": "todo"}))
            .await
            .expect(201);

        let audit = owner.get("/api/audit").await.expect(200).json();
        let entry = audit["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["object"] == "/api/projects")
            .unwrap();
        assert_eq!(entry["address"], expected, "{proxies}");
    }
}
