//! What goes wrong in a cluster while `fsa serve` uses it, and what is true afterwards.

use fsa_model::{Phase, api::CreateProject};
use fsa_tests::{
    Api, World,
    cluster::Namespace,
    way::{State, Way},
};
use reqwest::{Method, StatusCode};

fn wish(name: &str) -> CreateProject {
    CreateProject {
        name: name.into(),
        region: Some("cluster".into()),
        ..CreateProject::default()
    }
}

/// Failures in a row that an outage lasts for: by their back-off longer than a watch's pauses.
const FAILURES: u64 = 4;

/// Waits until so many attempts of a project have failed in a row.
async fn until_failed(api: &Api, project: &str, failures: u64) {
    let what = format!("{failures} failures");
    api.until_told(project, &what, |event| {
        event["kind"] == "attemptFailed" && event["data"]["attempts"].as_u64() >= Some(failures)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_in_the_middle_of_a_start_and_of_an_end_costs_only_time() {
    let namespace = Namespace::new().with_postgres();
    let way = Way::open().await;
    let settings = namespace.settings(
        &way.kubeconfig(),
        &format!("allow_localhost = true\n{}", namespace.databases()),
    );
    let world = World::start(&["--config", settings.path().to_str().expect("a path of UTF-8")]);
    let api = world.api();
    api.create_as(wish("steady")).await;
    api.until_running("steady").await;
    let steady = api.sandbox("steady").await.name;
    let pod = || namespace.kubectl(&["get", "pods", "-l", &format!("app={steady}"), "-o", "name"]);
    let before = pod();

    // A start is on its way when the API server goes, and another is wished while it is gone.
    api.create_as(wish("begun")).await;
    let begun = api.sandbox("begun").await.name;
    until(|| namespace.has(&format!("deployment/{begun}"))).await;
    way.set(State::Broken);
    api.create_as(wish("wished")).await;
    until_failed(&api, "wished", FAILURES).await;
    let told = api.sandbox("wished").await;
    assert_eq!(told.status, Phase::Error);
    let error = told.error.expect("an error");
    assert!(error.next_attempt_at.is_some(), "it is final: {error:?}");
    assert!(error.trouble.message.contains("Kubernetes API"), "{error:?}");
    assert_eq!(api.sandbox("steady").await.status, Phase::Running);
    way.set(State::Open);
    for name in ["begun", "wished"] {
        let sandbox = api.until_running(name).await;
        assert!(sandbox.error.is_none(), "{sandbox:?}");
        assert_eq!(api.shell(name, "hostname").await.trim(), name);
    }

    // An end is on its way when it falls silent, and another is wished meanwhile.
    let wished = api.sandbox("wished").await.name;
    let mut logged = 0;
    for name in ["begun", "wished"] {
        if name == "wished" {
            until(|| !namespace.has(&format!("deployment/{begun}"))).await;
            way.set(State::Silent);
            logged = world.log().len();
        }
        let gone = api.request(Method::DELETE, &format!("/api/projects/{name}"));
        assert_eq!(api.answer(gone).await.0, StatusCode::ACCEPTED);
    }
    until(|| world.log()[logged..].matches("a step failed").count() >= 2).await;
    assert!(
        namespace.has(&format!("deployment/{wished}")),
        "the outage came late"
    );
    way.set(State::Open);
    let homes = || {
        namespace
            .ours()
            .iter()
            .filter(|name| name.contains("/home-"))
            .count()
    };
    until(|| homes() == 1 && !namespace.ours().iter().any(|name| name.contains(&wished))).await;

    assert_eq!(api.sandbox("steady").await.status, Phase::Running);
    assert_eq!(pod(), before, "a sandbox that nobody touched was replaced");
    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
}

/// Waits for what nobody tells.
async fn until(seen: impl Fn() -> bool) {
    for _ in 0..600 {
        if seen() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("it is not seen after a minute");
}
