//! Tests of external authentication for an ingress controller: the check before each request, and the sign-in
//! of a user with a session.

use serde_json::json;

use crate::common::{ApiResponse, Client, World, project};

/// An ingress of a project's sandbox.
struct Ingress {
    world: World,
    sandbox: String,
    host: String,
    port: u16,
}

impl Ingress {
    /// An ingress of a project of `owner`; the driver for tests names its hosts.
    async fn to(world: World, owner: &Client, name: &str, port: u16) -> Self {
        project(owner, name).await;
        let sandbox = owner
            .get(&format!("/api/sandbox/{name}"))
            .await
            .expect(200)
            .json();
        let resource = sandbox["name"].as_str().expect("a name");
        let prefix = if port == 7681 { "t-" } else { "" };
        Self {
            world,
            sandbox: sandbox["id"].as_str().expect("an id").to_owned(),
            host: format!("{prefix}{resource}.outside.test"),
            port,
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/api/ingress/{what}?sandbox={}&port={}", self.sandbox, self.port)
    }

    /// The result of the controller's check of a request with these cookies.
    async fn check(&self, cookie: &str, path: &str) -> ApiResponse {
        self.controller(cookie, &format!("http://{}{path}", self.host))
            .get(&self.path("check"))
            .await
    }

    fn controller(&self, cookie: &str, url: &str) -> Client {
        let client = self.world.anonymous().with("x-original-url", url);
        if cookie.is_empty() {
            client
        } else {
            client.with("cookie", cookie)
        }
    }

    /// The sign-in's redirect of a browser that requested `path`.
    async fn enter(&self, browser: &Client, path: &str) -> ApiResponse {
        let back = format!("http://{}{path}", self.host)
            .replace('/', "%2F")
            .replace('?', "%3F");
        browser.get(&format!("{}&rd={back}", self.path("enter"))).await
    }

    /// The path with which a browser comes back.
    fn path_back(&self, answer: &ApiResponse) -> String {
        let location = answer.headers["location"].to_str().expect("an address");
        let home = format!("http://{}", self.host);
        location
            .strip_prefix(&home)
            .unwrap_or_else(|| panic!("{location} is not on {home}"))
            .to_owned()
    }
}

/// The cookie that a response sets, in the form in which it is sent back.
fn cookie_of(answer: &ApiResponse) -> String {
    let cookie = answer.headers["set-cookie"].to_str().expect("a cookie");
    for part in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "it is for one host: {cookie}");
    cookie.split(';').next().expect("a pair").to_owned()
}

#[tokio::test]
async fn only_a_signed_in_member_enters_the_application() {
    let world = World::new().await;
    let owner = world.owner_in_browser().await;
    let other = world.member_in_browser("ada").await;
    let ingress = Ingress::to(world, &owner, "notes", 3000).await;

    ingress.check("", "/a?b=c").await.expect(401);
    let unknown = ingress
        .enter(&ingress.world.anonymous(), "/a?b=c")
        .await
        .expect(302);
    assert!(
        unknown.headers["location"]
            .to_str()
            .unwrap()
            .contains("/sign-in?next=")
    );
    ingress.enter(&other, "/").await.expect(404);

    let back = ingress.enter(&owner, "/a?b=c").await.expect(302);
    let path = ingress.path_back(&back);
    assert!(path.starts_with("/a?b=c&fsa_enter="), "{path}");
    let arrived = ingress.check("", &path).await.expect(200);
    assert!(
        arrived.headers.get("authorization").is_none(),
        "only the terminal gets a token"
    );
    let token = cookie_of(&arrived);
    let next = ingress.check(&token, "/style.css").await.expect(200);
    assert!(next.headers.get("set-cookie").is_none());

    // The link works once, and for this host.
    ingress.check("", &path).await.expect(401);
    let elsewhere = ingress.controller(&token, "http://elsewhere.test/");
    elsewhere.get(&ingress.path("check")).await.expect(401);
    ingress
        .world
        .anonymous()
        .get(&ingress.path("check"))
        .await
        .expect(401);

    // A page of another site cannot use the preview token.
    let foreign = ingress
        .controller(&token, &format!("http://{}/", ingress.host))
        .with("origin", "http://evil.example")
        .with("sec-fetch-site", "cross-site");
    foreign.get(&ingress.path("check")).await.expect(403);
    // The host's own pages can, in browsers that send only their origin: over plain http, and when they open
    // a WebSocket.
    let own = ingress
        .controller(&token, &format!("http://{}:8080/ws", ingress.host))
        .with("origin", &format!("http://{}:8080", ingress.host));
    own.get(&ingress.path("check")).await.expect(200);
    let neighbor = ingress
        .controller(&token, &format!("http://{}/", ingress.host))
        .with("origin", &format!("http://t-{}", ingress.host));
    neighbor.get(&ingress.path("check")).await.expect(403);

    // The preview token ends with the session that it came from.
    owner.post_empty("/api/auth/sign-out").await.expect(204);
    ingress.check(&token, "/").await.expect(401);
}

#[tokio::test]
async fn a_preview_token_is_valid_for_one_sandbox_and_a_terminal_gets_its_token() {
    let world = World::new().await;
    let owner = world.owner_in_browser().await;
    let other = Ingress::to(world, &owner, "other", 3000).await;
    let Ingress {
        world, sandbox, host, ..
    } = other;
    let terminal = Ingress::to(world, &owner, "notes", 7681).await;

    let back = terminal.enter(&owner, "/").await.expect(302);
    let arrived = terminal.check("", &terminal.path_back(&back)).await.expect(200);
    let token = arrived.headers["authorization"].to_str().unwrap();
    assert!(
        token.starts_with("Bearer terminal-of-notes-agentruntime-"),
        "{token}"
    );

    let token = cookie_of(&arrived);
    let neighbor = terminal.controller(&token, &format!("http://{host}/"));
    neighbor
        .get(&format!("/api/ingress/check?sandbox={sandbox}&port=3000"))
        .await
        .expect(401);
    // The reverse fails too: the terminal's host needs the terminal's own preview token.
    let mixed = terminal.controller(&token, &format!("http://{host}/"));
    mixed.get(&terminal.path("check")).await.expect(401);
}

#[tokio::test]
async fn a_public_port_needs_no_token_and_a_terminal_is_never_public() {
    let world = World::new().await;
    let owner = world.owner_in_browser().await;
    let application = Ingress::to(world, &owner, "notes", 3000).await;
    for port in [3000, 7681] {
        let path = format!("/api/projects/notes/ports/{port}");
        owner.put(&path, &json!({"sharing": "public"})).await;
    }

    application.check("", "/").await.expect(200);

    let terminal = Ingress {
        port: 7681,
        host: format!("t-{}", application.host),
        ..application
    };
    terminal.check("", "/").await.expect(401);
    // A deleted project is answered like a private one.
    owner.delete("/api/projects/notes").await.expect(202);
    let application = Ingress {
        port: 3000,
        host: terminal.host[2..].to_owned(),
        ..terminal
    };
    application.check("", "/").await.expect(401);
}
