//! Faults of a cluster while `fsa serve` uses it, and the state afterwards.

use std::time::Duration;

use fsa_model::{Phase, api::CreateProject};
use fsa_tests::{
    Api, World,
    api_server_proxy::{ApiServerProxy, State},
    cluster::Namespace,
    exported,
};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;

fn new_project(name: &str) -> CreateProject {
    CreateProject {
        name: name.into(),
        region: Some("cluster".into()),
        ..CreateProject::default()
    }
}

/// Duration of the outage: longer than a watch's backoff and than any request timeout.
const OUTAGE: Duration = Duration::from_secs(30);
/// Consecutive failures during the outage.
const FAILURES: u64 = 4;

/// Waits until this number of consecutive attempts of a project have failed.
async fn until_failed(api: &Api, project: &str, failures: u64) {
    let what = format!("{failures} failures");
    api.until_event_matching(project, &what, |event| {
        event["kind"] == "attemptFailed" && event["data"]["attempts"].as_u64() >= Some(failures)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_api_server_during_a_start_and_a_delete_only_delays_them() {
    let namespace = Namespace::new().with_postgres();
    let proxy = ApiServerProxy::start().await;
    let settings = namespace.settings(
        &proxy.kubeconfig(),
        &format!("allow_localhost = true\n{}", namespace.databases()),
    );
    let world = World::start(&["--config", settings.path().to_str().expect("a path of UTF-8")]);
    let api = world.api();
    api.create_as(new_project("steady")).await;
    api.until_running("steady").await;
    let steady = api.sandbox("steady").await.name;
    let pod = || namespace.kubectl(&["get", "pods", "-l", &format!("app={steady}"), "-o", "name"]);
    let before = pod();

    // One start is in progress when the outage begins, and another is requested during it.
    api.create_as(new_project("begun")).await;
    let begun = api.sandbox("begun").await.name;
    until(|| namespace.has(&format!("deployment/{begun}"))).await;
    proxy.set(State::Broken);
    let back = Instant::now() + OUTAGE;
    api.create_as(new_project("requested")).await;
    until_failed(&api, "requested", FAILURES).await;
    let reported = api.sandbox("requested").await;
    assert_eq!(reported.status, Phase::Error);
    let error = reported.error.expect("an error");
    assert!(error.next_attempt_at.is_some(), "it is final: {error:?}");
    assert!(error.failure.message.contains("Kubernetes API"), "{error:?}");
    assert_eq!(api.sandbox("steady").await.status, Phase::Running);
    tokio::time::sleep_until(back).await;
    proxy.set(State::Open);
    for name in ["begun", "requested"] {
        let sandbox = api.until_running(name).await;
        assert!(sandbox.error.is_none(), "{sandbox:?}");
        assert_eq!(api.shell(name, "hostname").await.trim(), name);
    }

    // One delete is in progress when the API server stops answering, and another is requested meanwhile.
    let requested = api.sandbox("requested").await.name;
    let (mut logged, mut back) = (0, Instant::now());
    for name in ["begun", "requested"] {
        if name == "requested" {
            until(|| !namespace.has(&format!("deployment/{begun}"))).await;
            proxy.set(State::Silent);
            back = Instant::now() + OUTAGE;
            logged = world.log().len();
        }
        let gone = api.request(Method::DELETE, &format!("/api/projects/{name}"));
        assert_eq!(api.answer(gone).await.0, StatusCode::ACCEPTED);
    }
    until(|| world.log()[logged..].matches("a step failed").count() >= 2).await;
    assert!(
        namespace.has(&format!("deployment/{requested}")),
        "the outage began too late"
    );
    tokio::time::sleep_until(back).await;
    proxy.set(State::Open);
    let homes = || {
        namespace
            .ours()
            .iter()
            .filter(|name| name.contains("/home-"))
            .count()
    };
    until(|| homes() == 1 && !namespace.ours().iter().any(|name| name.contains(&requested))).await;

    assert_eq!(api.sandbox("steady").await.status, Phase::Running);
    assert_eq!(pod(), before, "an unrelated sandbox was replaced");
    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
}

/// Polls a condition that has no event.
async fn until(seen: impl Fn() -> bool) {
    for _ in 0..3000 {
        if seen() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it is not seen after five minutes");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_or_edited_objects_are_repaired_and_a_lost_database_is_reported() {
    let namespace = Namespace::new();
    let settings = namespace.settings(&exported("FSA_TEST_KUBECONFIG"), "reach = \"direct\"");
    let world = World::start(&["--config", settings.path().to_str().expect("a path of UTF-8")]);
    let api = world.api();
    api.create_as(new_project("robbed")).await;
    let name = api.until_running("robbed").await.name;
    api.put("robbed", "kept.txt", "kept").await;
    let pod = || namespace.kubectl(&["get", "pods", "-l", &format!("app={name}"), "-o", "name"]);
    let delete = |object: &str| {
        namespace.kubectl(&["delete", "--wait=false", object]);
    };
    let reached = "bash -c 'exec 3<>/dev/tcp/$PGHOST/$PGPORT' && echo reached";

    for object in ["secret", "service", "networkpolicy"] {
        let object = format!("{object}/{name}");
        delete(&object);
        until(|| namespace.has(&object)).await;
    }
    let memory = "jsonpath={.spec.template.spec.containers[0].resources.limits.memory}";
    let limit = || namespace.kubectl(&["get", &format!("deployment/{name}"), "-o", memory]);
    let right = limit();
    let edit = "{\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"sandbox\",\"resources\":\
                {\"limits\":{\"memory\":\"300Mi\"}}}]}}}}";
    namespace.kubectl(&["patch", &format!("deployment/{name}"), "-p", edit]);
    until(|| limit() == right).await;
    api.until_event("robbed", "repaired").await;
    let rollout = format!("deployment/{name}");
    let settled = || {
        namespace
            .try_kubectl(&["rollout", "status", "--watch=false", &rollout])
            .is_ok_and(|text| text.contains("successfully"))
            && pod().lines().count() == 1
    };
    until(settled).await;
    let before = pod();
    delete(before.trim());
    until(|| pod() != before && pod().lines().count() == 1).await;
    until_prints(&api, "robbed", "cat kept.txt", "kept").await;

    delete(&format!("clusters.apps.kubeblocks.io/{name}"));
    api.until_event("robbed", "databaseLost").await;
    let reported = api
        .until_event_matching("robbed", "a database in place of the lost one", |event| {
            event["kind"] == "databaseCreated"
                && event["message"].to_string().contains("replace the lost one")
        })
        .await;
    assert!(reported["message"].to_string().contains("empty"), "{reported}");
    until_prints(&api, "robbed", reached, "reached\n").await;
    until_prints(&api, "robbed", "cat kept.txt", "kept").await;

    world.finish().await;
    assert_eq!(namespace.ours(), Vec::<String>::new());
    assert_eq!(
        namespace.kubectl(&["get", "clusters.apps.kubeblocks.io", "-o", "name"]),
        ""
    );
}

/// Foreign objects that look like ours: of another installation, and with a sandbox's name as a prefix.
const LOOKALIKES: &str = "
apiVersion: v1
kind: Secret
metadata:
  name: NAME-theirs
  labels:
    app: NAME
    app.kubernetes.io/managed-by: fullstackagent
    fullstackagent.io/installation: another
    project.fullstackagent.io/id: PROJECT
    project.fullstackagent.io/name: app
---
apiVersion: v1
kind: Service
metadata: {name: app-agentruntime-theirs, labels: {app: app}}
spec: {selector: {app: app}, ports: [{port: 3000}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: home-theirs, labels: {project.fullstackagent.io/name: app}}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn projects_with_the_same_name_or_prefix_do_not_affect_each_other() {
    let namespace = Namespace::new().with_postgres();
    let settings = namespace.settings(
        &exported("FSA_TEST_KUBECONFIG"),
        &format!("reach = \"direct\"\n{}", namespace.databases()),
    );
    let world = World::start(&["--config", settings.path().to_str().expect("a path of UTF-8")]);
    let (mine, theirs) = (world.api(), guest(&world).await);
    let all = [(&mine, "app"), (&mine, "app-two"), (&theirs, "app")];
    let mut names = Vec::new();
    for (api, name) in all {
        names.push(api.create_as(new_project(name)).await.id.to_string());
    }
    for ((api, name), id) in all.iter().zip(&names) {
        api.until_running(name).await;
        api.put(name, "whose.txt", id).await;
    }
    let doomed = mine.sandbox("app").await.name;
    namespace.apply(&LOOKALIKES.replace("NAME", &doomed).replace("PROJECT", &names[0]));
    let foreign = [
        format!("secret/{doomed}-theirs"),
        "service/app-agentruntime-theirs".to_owned(),
        "persistentvolumeclaim/home-theirs".to_owned(),
    ];
    let others = || {
        let of_others = |line: &&str| !line.contains(&doomed) && !line.contains(&names[0]);
        let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,UID:.metadata.uid";
        let kinds = "deployments,pods,services,secrets,networkpolicies,persistentvolumeclaims";
        let list = namespace.kubectl(&["get", kinds, "-o", columns]);
        let mut lines: Vec<String> = list.lines().filter(of_others).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = others();

    mine.delete("app").await;

    assert_eq!(others(), before);
    let left: Vec<_> = namespace
        .ours()
        .into_iter()
        .filter(|name| name.contains(&doomed))
        .collect();
    assert_eq!(
        left,
        [foreign[0].clone()],
        "of the project there is still something"
    );
    assert!(!namespace.has(&format!("persistentvolumeclaim/home-{}", names[0])));
    for ((api, name), id) in all.iter().zip(&names).skip(1) {
        assert_eq!(api.sandbox(name).await.status, Phase::Running);
        assert_eq!(api.shell(name, "cat whose.txt").await, *id);
        let reached = "bash -c 'exec 3<>/dev/tcp/$PGHOST/$PGPORT' && echo reached";
        assert_eq!(api.shell(name, reached).await, "reached\n");
    }
    theirs.delete("app").await;
    assert_eq!(mine.shell("app-two", "cat whose.txt").await, names[1]);

    world.finish().await;
    assert_eq!(namespace.ours(), [foreign[0].clone()]);
    assert!(foreign.iter().all(|object| namespace.has(object)));
}

/// Waits until a script prints this in the sandbox, which may be replaced meanwhile.
async fn until_prints(api: &Api, project: &str, script: &str, expected: &str) {
    for _ in 0..3000 {
        let request = api
            .request(Method::POST, &format!("/api/projects/{project}/exec"))
            .json(&json!({"command": ["/bin/sh", "-c", script]}));
        let (status, result) = api.answer(request).await;
        if status.is_success() && result["stdout"] == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!(
        "{project} does not print {expected:?} after five minutes: {:#?}",
        api.sandbox(project).await
    );
}

/// A second user.
async fn guest(world: &World) -> Api {
    let invited: Value = world
        .api()
        .send(Method::POST, "/api/users/invites", &json!({}))
        .await;
    let secret = invited["url"]
        .as_str()
        .and_then(|url| url.split_once('#'))
        .expect("a link")
        .1;
    let http = reqwest::Client::new();
    let from_here = |path: &str| {
        http.post(format!("{}{path}", world.url()))
            .header(header::ORIGIN, world.url())
    };
    let entered = from_here("/api/auth/link").json(&json!({"token": secret, "login": "guest"}));
    let entered = entered.send().await.expect("an answer");
    let cookie = entered.headers()[header::SET_COOKIE].to_str().expect("a cookie");
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let token = from_here("/api/tokens")
        .header(header::COOKIE, cookie)
        .json(&json!({"name": "test"}));
    let token: Value = token
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("a token");
    Api::new(
        &world.url(),
        token["token"].as_str().unwrap_or_else(|| panic!("{token}")),
    )
}
