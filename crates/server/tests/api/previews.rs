//! Previews over HTTP: browsers at the ports of a project, and the requests and responses of its applications.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use fsa_model::{ResourceName, sandboxd::ListeningPort};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::common::{ApiResponse, Client, World, running_project};

/// An application: answers with what it sees, and with the header fields that the query names.
async fn application(request: Request) -> Response {
    let headers: BTreeMap<String, Vec<String>> = request.headers().iter().fold(
        BTreeMap::new(),
        |mut all: BTreeMap<String, Vec<String>>, (name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            all.entry(name.to_string()).or_default().push(value);
            all
        },
    );
    let seen = json!({"method": request.method().as_str(), "headers": headers});
    let mut response = axum::Json(seen).into_response();
    let query = request.uri().query().unwrap_or_default().to_owned();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        response.headers_mut().append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(&value).unwrap(),
        );
    }
    response
}

/// A project `todo` of the owner of a server, whose sandbox runs.
struct Scene {
    world: World,
    owner: Client,
    resource: ResourceName,
}

impl Scene {
    async fn new() -> Self {
        let world = World::working().await;
        let owner = world.owner().await;
        let created = running_project(&owner, "todo").await;
        let resource = created["sandbox"]["name"].as_str().unwrap().parse().unwrap();
        Self {
            world,
            owner,
            resource,
        }
    }

    /// Serves an application at a port, which the sandbox reports.
    async fn serve(&self, port: u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.world.driver.serve(port, listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(application)).await });
        self.report(port).await;
    }

    /// The sandbox reports a listening port, and returns when the server knows it.
    async fn report(&self, port: u16) {
        assert!(self.world.driver.set_status(&self.resource, |status| {
            status.ports.push(ListeningPort { port, process: None });
        }));
        let listed = |page: &Value| {
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .any(|item| item["port"] == port)
        };
        while !listed(
            &self
                .owner
                .get("/api/projects/todo/ports")
                .await
                .expect(200)
                .json(),
        ) {
            tokio::task::yield_now().await;
        }
    }

    fn host(&self, port: u16) -> String {
        format!("todo--{port}.apps.localhost:{}", self.world.address.port())
    }

    fn origin(&self, port: u16) -> String {
        format!("http://{}", self.host(port))
    }

    /// A program with the owner's token at a port.
    fn program(&self, port: u16) -> Client {
        let token = self
            .owner
            .header("authorization")
            .strip_prefix("Bearer ")
            .unwrap()
            .to_owned();
        self.world
            .anonymous()
            .with("host", &self.host(port))
            .with("x-fsa-token", &token)
    }

    async fn set(&self, port: u16, settings: Value) -> ApiResponse {
        self.owner
            .put(&format!("/api/projects/todo/ports/{port}"), &settings)
            .await
    }

    /// A browser in which the owner is signed in.
    async fn browser(&self) -> Browser {
        let signed_in = self.world.owner_in_browser().await;
        let session = signed_in.header("cookie").to_owned();
        let (name, value) = session.split_once('=').unwrap();
        Browser {
            client: self.world.anonymous(),
            cookies: BTreeMap::from([(
                self.world.address.to_string(),
                BTreeMap::from([(name.to_owned(), value.to_owned())]),
            )]),
        }
    }
}

/// A browser: cookies by host, navigations with redirects, and requests of pages.
struct Browser {
    client: Client,
    cookies: BTreeMap<String, BTreeMap<String, String>>,
}

impl Browser {
    /// Loads a page, and returns the last answer with all URLs on the way.
    async fn open(&mut self, url: &str) -> (ApiResponse, Vec<String>) {
        let mut way = vec![url.to_owned()];
        loop {
            let url: url::Url = way.last().unwrap().parse().unwrap();
            let client = self
                .client
                .with("accept", "text/html")
                .with("host", url.authority())
                .with("sec-fetch-mode", "navigate")
                .with("sec-fetch-dest", "document");
            let client = self.with_cookies(client, url.authority(), |_| true);
            let answer = client
                .get(&url[url::Position::BeforePath..url::Position::AfterQuery])
                .await;
            let jar = self.cookies.entry(url.authority().to_owned()).or_default();
            for line in answer.headers.get_all(header::SET_COOKIE) {
                let line = line.to_str().unwrap();
                let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
                if line.contains("Max-Age=0") {
                    jar.remove(name);
                } else {
                    jar.insert(name.to_owned(), value.to_owned());
                }
            }
            assert!(way.len() < 15, "{way:?}");
            match answer.headers.get(header::LOCATION) {
                Some(next) if answer.status.is_redirection() => {
                    way.push(url.join(next.to_str().unwrap()).unwrap().into());
                }
                _ => return (answer, way),
            }
        }
    }

    fn with_cookies(&self, client: Client, host: &str, sent: impl Fn(&str) -> bool) -> Client {
        let jar = self.cookies.get(host).into_iter().flatten();
        let pairs: Vec<_> = jar
            .filter(|(name, _)| sent(name))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if pairs.is_empty() {
            client
        } else {
            client.with("cookie", &pairs.join("; "))
        }
    }

    /// A client that sends what the page of `origin`, on another site, sends with credentials to `host`.
    fn cross_site(&self, origin: &str, host: &str) -> Client {
        let client = self
            .client
            .with("host", host)
            .with("origin", origin)
            .with("sec-fetch-site", "cross-site")
            .with("sec-fetch-mode", "cors");
        // Browsers send no Lax cookie to another site.
        self.with_cookies(client, host, |name| name.ends_with("fsa_ports"))
    }
}

fn is_for(answer: &ApiResponse, origin: &str) -> bool {
    let field = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap());
    field("access-control-allow-origin") == Some(origin)
        && field("access-control-allow-credentials") == Some("true")
}

#[tokio::test]
async fn a_page_reaches_other_private_ports_of_its_project() {
    let scene = Scene::new().await;
    scene.serve(5173).await;
    scene.serve(8000).await;
    let (front, back) = (scene.origin(5173), scene.host(8000));
    let mut browser = scene.browser().await;

    // Before the page is opened, nothing gets in; but its own page can read why.
    let refused = browser.cross_site(&front, &back).get("/api").await.expect(401);
    assert!(
        is_for(&refused, &front) && refused.text().contains("credentials"),
        "{refused:?}"
    );

    let (page, way) = browser.open(&format!("{front}/a?b=c")).await;
    assert_eq!(
        (page.status, way.last().unwrap().as_str()),
        (StatusCode::OK, format!("{front}/a?b=c").as_str())
    );
    assert!(
        way.iter().any(|url| url.starts_with(&scene.origin(8000))),
        "{way:?}"
    );
    let (_, way) = browser.open(&front).await;
    assert_eq!(way.len(), 1, "no further chain: {way:?}");

    let request = browser.cross_site(&front, &back);
    let response = request
        .post("/api?access-control-allow-origin=*", &json!({}))
        .await
        .expect(200);
    assert!(is_for(&response, &front), "{:?}", response.headers);
    assert!(
        !response.text().contains("fsa_"),
        "the application receives no own cookie: {}",
        response.text()
    );

    let preflight = |origin: &str| {
        scene
            .world
            .anonymous()
            .with("host", &back)
            .with("origin", origin)
            .with("access-control-request-method", "POST")
            .with("access-control-request-headers", "content-type")
    };
    let allowed = preflight(&front)
        .send(Method::OPTIONS, "/api", None)
        .await
        .expect(204);
    assert!(is_for(&allowed, &front), "{:?}", allowed.headers);
    assert_eq!(allowed.headers["access-control-allow-headers"], "content-type");

    // Pages of other projects and sites, and programs that claim nothing, do not get in by this cookie.
    let port = scene.world.address.port();
    for foreign_origin in [
        "https://evil.example".to_owned(),
        format!("http://evil--5173.apps.localhost:{port}"),
        format!("http://todo--5173--evil.apps.localhost:{port}"),
        "http://todo--5173.apps.localhost:1".into(),
        "null".into(),
    ] {
        let refused = browser.cross_site(&foreign_origin, &back).get("/api").await;
        assert!(
            [401, 403].contains(&refused.status.as_u16()),
            "{foreign_origin}: {}",
            refused.status
        );
        assert!(
            !refused.headers.contains_key("access-control-allow-origin"),
            "{foreign_origin}"
        );
        let refused = preflight(&foreign_origin)
            .send(Method::OPTIONS, "/api", None)
            .await;
        assert_eq!(refused.status, 401, "{foreign_origin}");
    }
    let client = browser.with_cookies(scene.world.anonymous().with("host", &back), &back, |name| {
        name.ends_with("fsa_ports")
    });
    client.get("/api").await.expect(401);

    // A port that began to listen later is visited with the next page.
    scene.serve(9000).await;
    let (_, way) = browser.open(&front).await;
    assert!(
        way.iter().any(|url| url.starts_with(&scene.origin(9000))),
        "{way:?}"
    );
    browser
        .cross_site(&front, &scene.host(9000))
        .get("/")
        .await
        .expect(200);

    // The chain's cookies end with the session, and a hand-off of it works once.
    let step = way
        .iter()
        .find(|url| url.contains("/.fsa/hand-off"))
        .unwrap()
        .clone();
    let (again, _) = browser.open(&step).await;
    assert_eq!(again.status, 403);
    scene.world.database.sql("delete from sessions");
    scene
        .world
        .app
        .hub
        .wake(fsa_server::store::notify::Topic::Credentials(
            scene.owner.get("/api/me").await.json()["id"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
        ));
    while request.get("/").await.status != 401 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_public_application_receives_preflights() {
    let scene = Scene::new().await;
    scene.serve(8000).await;
    scene.set(8000, json!({"sharing": "public"})).await.expect(200);
    let response = scene
        .world
        .anonymous()
        .with("host", &scene.host(8000))
        .with("origin", &scene.origin(5173))
        .with("access-control-request-method", "POST");
    let answer = response.send(Method::OPTIONS, "/", None).await.expect(200);
    assert_eq!(answer.json()["method"], "OPTIONS");
}

#[tokio::test]
async fn an_application_that_knows_only_localhost_sees_localhost() {
    let scene = Scene::new().await;
    scene.serve(3000).await;
    let (public, port) = (scene.origin(3000), scene.world.address.port());
    let program = scene
        .program(3000)
        .with("origin", &public)
        .with("referer", &format!("{public}/a?b=c"));
    let seen = program.get("/").await.expect(200).json()["headers"].clone();
    assert_eq!(seen["host"], json!([scene.host(3000)]));
    assert_eq!(seen["x-forwarded-host"], json!([scene.host(3000)]));
    assert_eq!(seen["origin"], json!([public]));

    let set = scene
        .set(3000, json!({"hostHeader": "localhost"}))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&set["hostHeader"], &set["sharing"]),
        (&json!("localhost"), &json!("private"))
    );
    let listed = scene
        .owner
        .get("/api/projects/todo/ports")
        .await
        .expect(200)
        .json();
    assert_eq!(listed["items"][0]["hostHeader"], "localhost");
    let unlisted = scene.owner.get("/api/projects/todo/ports/4321").await;
    assert_eq!(unlisted.expect(200).json()["url"], scene.origin(4321));
    scene.owner.get("/api/projects/todo/ports/0").await.expect(422);

    let seen = program.get("/").await.expect(200).json()["headers"].clone();
    assert_eq!(seen["host"], json!(["localhost:3000"]));
    assert_eq!(seen["origin"], json!(["http://localhost:3000"]));
    assert_eq!(seen["referer"], json!(["http://localhost:3000/a?b=c"]));
    assert_eq!(seen["forwarded"], json!(["for=127.0.0.1"]));
    for name in ["x-forwarded-host", "x-forwarded-proto"] {
        assert!(seen[name].is_null(), "{name}: {seen}");
    }
    let others = |origin: &str| {
        let program = scene.program(3000).with("origin", origin);
        async move { program.get("/").await.expect(200).json()["headers"]["origin"].clone() }
    };
    assert_eq!(
        others(&scene.origin(5173)).await,
        json!(["http://localhost:5173"])
    );
    for foreign in [
        "https://evil.example".to_owned(),
        format!("http://x--3000.apps.localhost:{port}"),
    ] {
        assert_eq!(others(&foreign).await, json!([foreign]));
    }
    let response = program
        .get("/?access-control-allow-origin=http://localhost:5173&set-cookie=a%3D1;%20Domain%3Dlocalhost")
        .await
        .expect(200);
    assert_eq!(
        response.headers["access-control-allow-origin"],
        scene.origin(5173).as_str()
    );
    assert_eq!(response.headers["set-cookie"], "a=1");

    scene.set(3000, json!({"hostHeader": "public"})).await.expect(200);
    let seen = program.get("/").await.expect(200).json()["headers"].clone();
    assert_eq!(seen["host"], json!([scene.host(3000)]));
    scene.set(3000, json!({})).await.expect(422);
    scene
        .set(7681, json!({"hostHeader": "localhost"}))
        .await
        .expect(422);
}

#[tokio::test]
async fn a_public_path_of_a_private_port_takes_callbacks() {
    let scene = Scene::new().await;
    scene.serve(3000).await;
    let guest = scene.world.anonymous().with("host", &scene.host(3000));
    let callback = || {
        guest
            .with("accept", "text/html")
            .with("origin", "https://login.example")
            .with("sec-fetch-site", "cross-site")
            .with("sec-fetch-mode", "navigate")
    };
    // The form of another site brings no cookie; the page says what to do.
    let refused = callback().post("/auth/callback", &json!({})).await.expect(401);
    assert!(
        refused
            .text()
            .contains("fsa port public PROJECT PORT --path /auth/callback"),
        "{}",
        refused.text()
    );

    let paths = json!({"publicPaths": ["/auth/callback/", "/webhook", "/webhook"]});
    let set = scene.set(3000, paths).await.expect(200).json();
    assert_eq!(set["publicPaths"], json!(["/auth/callback", "/webhook"]));
    assert_eq!(set["sharing"], "private");
    let shown = scene.owner.get("/api/projects/todo/ports/3000").await.expect(200);
    assert_eq!(shown.json()["publicPaths"], set["publicPaths"]);

    let answer = callback().post("/auth/callback", &json!({"code": 1})).await;
    assert_eq!(answer.expect(200).json()["method"], "POST");
    guest.get("/webhook/github?x=1").await.expect(200);
    for private in [
        "/",
        "/webhooks",
        "/webhook/../",
        "/webhook/%2e%2e/",
        "/webhook//x",
    ] {
        guest.get(private).await.expect(401);
    }
    // A connection that outlives its request needs a credential.
    let upgrade = guest.with("upgrade", "websocket").with("connection", "upgrade");
    upgrade.get("/webhook").await.expect(401);

    // Another setting leaves the paths as they are.
    scene
        .set(3000, json!({"hostHeader": "localhost"}))
        .await
        .expect(200);
    guest.get("/webhook").await.expect(200);
    scene.set(3000, json!({"publicPaths": []})).await.expect(200);
    guest.get("/webhook").await.expect(401);
    let listed = scene.owner.get("/api/projects/todo/ports/3000").await.expect(200);
    assert_eq!(listed.json()["hostHeader"], "localhost");
}

#[tokio::test]
async fn a_public_path_is_a_plain_one_of_an_application_of_main() {
    let scene = Scene::new().await;
    for path in ["/", "webhook", "/a/../b", "/a%2f"] {
        let refused = scene.set(3000, json!({"publicPaths": [path]})).await.expect(422);
        assert_eq!(refused.field(), "publicPaths");
    }
    let many: Vec<String> = (0..21).map(|number| format!("/{number}")).collect();
    scene.set(3000, json!({"publicPaths": many})).await.expect(422);
    scene.set(7681, json!({"publicPaths": ["/x"]})).await.expect(422);
    scene
        .owner
        .post("/api/projects/todo/branches", &json!({"name": "fix"}))
        .await
        .expect(201);
    let branch = "/api/projects/todo/ports/3000?branch=fix";
    let refused = scene
        .owner
        .put(branch, &json!({"publicPaths": ["/x"]}))
        .await
        .expect(422);
    assert_eq!(refused.field(), "publicPaths");
}

#[tokio::test]
async fn only_the_main_pages_frame_explains_an_application_that_forbids_frames() {
    let scene = Scene::new().await;
    scene.serve(3000).await;
    let main_page = format!("http://{}/", scene.world.address);
    let load = |dest: &str, referer: &str| {
        scene
            .program(3000)
            .with("accept", "text/html")
            .with("sec-fetch-mode", "navigate")
            .with("sec-fetch-dest", dest)
            .with("referer", referer)
    };
    let path = "/a?x-frame-options=SAMEORIGIN&x-app=%22";
    let own_page = scene.origin(3000);

    let explained = load("iframe", &main_page).get(path).await.expect(200);
    let text = explained.text();
    assert!(text.contains("X-Frame-Options: SAMEORIGIN"), "{text}");
    let link = format!(
        "href=\"{own_page}{}\" target=\"_blank\"",
        path.replace('&', "&amp;")
    );
    assert!(text.contains(&link), "{text}");
    assert_eq!(explained.headers["cache-control"], "no-store");
    assert!(!explained.headers.contains_key("x-frame-options"));
    let policy = explained.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.ends_with(main_page.trim_end_matches('/')),
        "the main page may frame it: {policy}"
    );

    // In a tab, and in a frame of the same application, the browser shows the application.
    for request in [load("document", &main_page), load("iframe", &own_page)] {
        let shown = request.get(path).await.expect(200);
        assert_eq!(shown.headers["x-frame-options"], "SAMEORIGIN");
        assert!(shown.json()["headers"]["host"].is_array());
    }
}

#[tokio::test]
async fn redirects_to_localhost_lead_to_the_preview() {
    let scene = Scene::new().await;
    scene.serve(3000).await;
    let public = scene.origin(3000);
    for host_header in ["public", "localhost"] {
        scene
            .set(3000, json!({"hostHeader": host_header}))
            .await
            .expect(200);
        for (location, expected) in [
            ("http://localhost:3000/a?b=c%26", format!("{public}/a?b=c%26")),
            ("https://127.0.0.1:3000", format!("{public}/")),
            ("http://0.0.0.0:3000/x#y", format!("{public}/x#y")),
            ("http://[::1]:3000/", format!("{public}/")),
            ("/relative", "/relative".to_owned()),
            ("http://localhost:5173/", "http://localhost:5173/".to_owned()),
            (
                "https://example.com/?next=http://localhost:3000/",
                "https://example.com/?next=http://localhost:3000/".to_owned(),
            ),
        ] {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("location", location)
                .finish();
            let answer = scene.program(3000).get(&format!("/?{query}")).await;
            assert_eq!(answer.headers["location"], expected.as_str(), "{host_header}");
        }
    }
}

/// Serves the application by HTTPS at a port. Plain HTTP is answered with `to_plain`.
async fn serve_https(scene: &Scene, port: u16, to_plain: &'static [u8]) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    scene.world.driver.serve(port, listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut first = [0];
                // A TLS record of a handshake begins with 22.
                if stream.peek(&mut first).await.is_ok() && first != [22] && !to_plain.is_empty() {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(to_plain).await;
                    return;
                }
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service =
                    hyper_util::service::TowerToHyperService::new(Router::new().fallback(application));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}

#[tokio::test]
async fn an_https_port_is_reached() {
    let scene = Scene::new().await;
    serve_https(&scene, 5173, b"").await;
    // A POST may have taken effect despite a broken response, so it is not repeated.
    let first = scene.program(5173).post("/", &json!({})).await.expect(502);
    assert!(first.text().contains("HTTPS"), "{}", first.text());
    scene.program(5173).post("/", &json!({})).await.expect(200);
    let seen = scene.program(5173).get("/").await.expect(200).json();
    assert_eq!(seen["method"], "GET");

    serve_https(&scene, 5174, b"").await;
    scene.program(5174).get("/").await.expect(200);
    let refusal = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    serve_https(&scene, 5175, refusal).await;
    scene.program(5175).get("/").await.expect(200);
}

#[tokio::test]
async fn the_main_host_answers_to_its_own_names_only() {
    let world = World::with(|settings| settings.origin = "http://fsa.example:8080".parse().unwrap()).await;
    for own in [
        "fsa.example",
        "FSA.example:8080",
        "localhost:1",
        "127.0.0.1",
        "[::1]:8080",
        "10.0.0.5:8080",
    ] {
        world
            .anonymous()
            .with("host", own)
            .get("/api/openapi.json")
            .await
            .expect(200);
    }
    for foreign in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "fsa.example.evil.example",
    ] {
        let refused = world
            .anonymous()
            .with("host", foreign)
            .get("/api/openapi.json")
            .await
            .expect(421);
        assert!(
            refused.text().contains("http://fsa.example:8080"),
            "{}",
            refused.text()
        );
        for probe in [
            "/healthz",
            "/api/ingress/check?sandbox=00000000-0000-0000-0000-000000000000&port=3000",
        ] {
            assert_ne!(
                world.anonymous().with("host", foreign).get(probe).await.status,
                421,
                "{probe}"
            );
        }
    }
}

#[tokio::test]
async fn a_server_below_localhost_redirects_bookmarks_of_localhost() {
    let world = World::new().await;
    let replica = world
        .replica_with(|settings| {
            let port = settings.origin.port().unwrap();
            settings.origin = format!("http://www.fsa.localhost:{port}").parse().unwrap();
            settings.apps_domain = "apps.fsa.localhost".into();
        })
        .await;
    let port = replica.address.port();
    let at = |host: &str| replica.anonymous().with("host", &format!("{host}:{port}"));
    let browser = |host: &str| {
        at(host)
            .with("sec-fetch-mode", "navigate")
            .with("accept", "text/html")
    };

    for (host, path, target) in [
        ("localhost", "/p/shop?view=preview", "www.fsa.localhost"),
        ("127.0.0.1", "/", "www.fsa.localhost"),
        ("shop--3000.localhost", "/a?b=c", "shop--3000.apps.fsa.localhost"),
    ] {
        let answer = browser(host).get(path).await.expect(307);
        assert_eq!(
            answer.headers["location"],
            format!("http://{target}:{port}{path}").as_str()
        );
    }
    let moved = at("shop--3000.localhost")
        .post_empty("/webhook")
        .await
        .expect(307);
    assert_eq!(
        moved.headers["location"],
        format!("http://shop--3000.apps.fsa.localhost:{port}/webhook").as_str()
    );
    // Programs and the origin's own pages are served; so is a tunnel from another port.
    for served in [
        at("localhost"),
        at("127.0.0.1"),
        browser("www.fsa.localhost"),
        browser("www.fsa.localhost").with("host", "localhost:1"),
    ] {
        served.get("/api/openapi.json").await.expect(200);
    }
}

#[tokio::test]
async fn a_host_name_never_leads_to_another_owners_project() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let url = async |client: &Client, name: &str| {
        let project = client
            .get(&format!("/api/projects/{name}"))
            .await
            .expect(200)
            .json();
        project["sandbox"]["publicUrl"].as_str().unwrap().to_owned()
    };
    let create = async |client: &Client, name: &str| {
        client
            .post("/api/projects", &json!({"name": name}))
            .await
            .expect(201);
    };
    // What a host name leads to is what a signed-in browser of the owner is redirected to.
    let opens = async |client: &Client, host: &str| {
        let path = format!("/api/auth/preview?host={host}.apps.localhost&nonce=x&path=/");
        client.get(&path).await.status == StatusCode::FOUND
    };
    let in_browser = world.member_in_browser("grace").await;

    create(&owner, "shop").await;
    create(&owner, "todo").await;
    create(&ada, "todo").await;
    owner.delete("/api/projects/shop").await.expect(202);
    owner
        .patch("/api/projects/todo", &json!({"name": "list"}))
        .await
        .expect(200);
    for name in ["shop", "todo"] {
        create(&in_browser, name).await;
        assert!(
            url(&in_browser, name)
                .await
                .contains(&format!("{name}--3000--grace.")),
            "{name}"
        );
        assert!(!opens(&in_browser, &format!("{name}--3000")).await, "{name}");
        assert!(
            opens(&in_browser, &format!("{name}--3000--grace")).await,
            "{name}"
        );
    }
    assert!(
        url(&ada, "todo").await.contains("todo--3000--ada."),
        "the older project does not get the name either"
    );

    // The name is still reserved for its former owner.
    create(&owner, "shop").await;
    assert!(url(&owner, "shop").await.contains("//shop--3000."));
    assert!(url(&in_browser, "shop").await.contains("--grace."));
    // Its owner's new project keeps it when the year is over; without one it is free.
    world
        .database
        .sql("update reserved_names set until = now() - interval '1 second'");
    assert!(url(&owner, "shop").await.contains("//shop--3000."));
    assert!(url(&ada, "todo").await.contains("//todo--3000."));
}

#[tokio::test]
async fn a_host_name_with_a_login_does_not_lead_to_a_later_user_of_that_login() {
    let world = World::new().await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let url = async |client: &Client| {
        let project = client.get("/api/projects/shop").await.expect(200).json();
        project["sandbox"]["publicUrl"].as_str().unwrap().to_owned()
    };
    for client in [&owner, &ada] {
        client
            .post("/api/projects", &json!({"name": "shop"}))
            .await
            .expect(201);
    }
    assert!(url(&ada).await.contains("//shop--3000--ada."));
    let id = ada.get("/api/me").await.json()["id"].as_str().unwrap().to_owned();
    owner.delete(&format!("/api/users/{id}")).await.expect(202);
    world
        .database
        .sql(&format!("delete from projects where owner_id = '{id}'"));

    let next = world.member_in_browser("ada").await;
    next.post("/api/projects", &json!({"name": "shop"}))
        .await
        .expect(201);

    let opens = async |host: &str| {
        let path = format!("/api/auth/preview?host={host}.apps.localhost&nonce=x&path=/");
        next.get(&path).await.status == StatusCode::FOUND
    };
    assert!(!opens("shop--3000--ada").await);
    let new = url(&next).await;
    let label = new
        .strip_prefix("http://")
        .unwrap()
        .split('.')
        .next()
        .unwrap()
        .to_owned();
    assert!(label.starts_with("shop--3000--0"), "{new}");
    assert!(opens(&label).await, "{new}");
}
