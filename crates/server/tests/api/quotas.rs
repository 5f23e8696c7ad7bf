//! Quota tests: a request beyond a user's quota is refused, with the limit and the use.

use std::{sync::atomic::Ordering, time::Duration};

use fsa_model::limits::Limits;
use fsa_server::reconcile::{self, Worker};
use http::Method;
use serde_json::json;

use crate::common::{World, project};

#[tokio::test]
async fn requests_over_a_limit_report_limit_and_usage() {
    let world = World::with(|settings| {
        settings.limits.per_member = Limits {
            projects: Some(2),
            running: Some(1),
            ..Limits::default()
        };
    })
    .await;
    let ada = world.member("ada").await;
    project(&ada, "one").await;

    let second = ada
        .post("/api/projects", &json!({"name": "two"}))
        .await
        .expect(403)
        .error();
    let limit = second.details.limit.expect("the error has the limit");
    assert_eq!(
        (
            limit.resource.as_str(),
            limit.limit,
            limit.requested,
            limit.server_wide
        ),
        ("running", 1, 2, false)
    );
    assert!(
        second.error.contains("limited to 1 running sandbox,"),
        "{}",
        second.error
    );
    ada.post("/api/projects", &json!({"name": "two", "start": false}))
        .await
        .expect(201);
    ada.post_empty("/api/projects/two/start").await.expect(403);
    ada.post("/api/projects/two/tasks", &json!({"prompt": "x"}))
        .await
        .expect(403);
    // A running project may be restarted, and frees its part when it is stopped.
    ada.post_empty("/api/projects/one/restart").await.expect(202);
    ada.post_empty("/api/projects/one/stop").await.expect(202);
    ada.post_empty("/api/projects/two/start").await.expect(202);
    let third = ada
        .post("/api/projects", &json!({"name": "three", "start": false}))
        .await;
    assert_eq!(
        third.expect(403).error().details.limit.unwrap().resource,
        "projects"
    );

    let me = ada.get("/api/me").await.expect(200).json();
    assert_eq!(me["limits"], json!({"projects": 2, "running": 1}));
    assert_eq!(
        me["used"],
        json!({"projects": 2, "running": 1, "cpuMillis": 2000, "memoryMib": 2048, "diskMib": 0})
    );
    let tasks = "select count(*)::text from tasks";
    assert_eq!(world.database.sql(tasks), "0", "a refused task is not queued");
}

#[tokio::test]
async fn concurrent_requests_cannot_exceed_a_limit() {
    let world = World::with(|settings| settings.limits.server_wide.projects = Some(5)).await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let mut tries = Vec::new();
    for number in 0..6 {
        for client in [&ada, &grace] {
            let client = client.clone();
            let body = json!({"name": format!("p{number}"), "start": false});
            tries.push(async move { client.post("/api/projects", &body).await.status.as_u16() });
        }
    }
    let statuses = futures_util::future::join_all(tries).await;
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((count(201), count(403)), (5, 7), "{statuses:?}");
    let refused = ada
        .post("/api/projects", &json!({"name": "q"}))
        .await
        .expect(403)
        .error();
    assert!(refused.details.limit.unwrap().server_wide);
}

#[tokio::test]
async fn limits_of_members_do_not_apply_to_owners() {
    let world = World::with(|settings| settings.limits.per_member.projects = Some(1)).await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    let create = |name: &str| json!({"name": name, "start": false});
    for user in [&owner, &ada] {
        user.post("/api/projects", &create("one")).await.expect(201);
    }

    owner.post("/api/projects", &create("two")).await.expect(201);
    ada.post("/api/projects", &create("two")).await.expect(403);

    let limits = |me: serde_json::Value| me["limits"]["projects"].clone();
    assert_eq!(limits(owner.get("/api/me").await.expect(200).json()), json!(null));
    assert_eq!(limits(ada.get("/api/me").await.expect(200).json()), json!(1));
}

#[tokio::test]
async fn an_owner_sets_limits_for_a_user() {
    let world = World::with(|settings| settings.limits.per_member.projects = Some(1)).await;
    let (owner, ada) = (world.owner().await, world.member("ada").await);
    project(&ada, "one").await;
    let id = ada.get("/api/me").await.expect(200).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/api/users/{id}");
    ada.patch(&path, &json!({"limits": {"projects": 9}}))
        .await
        .expect(403);

    let given = json!({"limits": {"projects": 2, "memoryMib": 3000}});
    let changed = owner.patch(&path, &given).await.expect(200).json();

    assert_eq!(changed["ownLimits"], true);
    let over = ada
        .post("/api/projects", &json!({"name": "two"}))
        .await
        .expect(403)
        .error();
    assert_eq!(over.details.limit.unwrap().resource, "memoryMib");
    ada.post("/api/projects", &json!({"name": "two", "size": "micro"}))
        .await
        .expect(201);
    let grown = ada
        .patch("/api/projects/two", &json!({"size": "small"}))
        .await
        .expect(403)
        .error();
    assert_eq!(grown.details.limit.unwrap().requested, 4096);
    let list = owner.get("/api/users").await.expect(200).json();
    let row = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["login"] == "ada")
        .unwrap();
    assert_eq!(row["used"]["projects"], 2);
    owner.patch(&path, &json!({"limits": null})).await.expect(200);
    let me = ada.get("/api/me").await.expect(200).json();
    assert_eq!(
        (&me["ownLimits"], &me["limits"]),
        (&json!(false), &json!({"projects": 1}))
    );
}

#[tokio::test]
async fn rate_limits_report_the_limit_and_the_retry_time() {
    let world = World::with(|settings| {
        settings.limits.per_member.requests_per_minute = Some(20);
        settings.limits.per_member.execs_per_minute = Some(2);
    })
    .await;
    let (owner, ada, grace) = (
        world.owner().await,
        world.member("ada").await,
        world.member("grace").await,
    );
    let id = ada.get("/api/me").await.expect(200).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    project(&ada, "one").await;

    // No sandbox runs here, so an admitted request is refused for that.
    let ls = json!({"command": ["ls"]});
    for _ in 0..2 {
        ada.post("/api/projects/one/exec", &ls).await.expect(409);
    }
    let refused = ada.post("/api/projects/one/exec", &ls).await.expect(429);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let error = refused.error();
    assert!(
        error.error.contains("2 programs started in sandboxes a minute"),
        "{}",
        error.error
    );
    let limit = error.details.limit.expect("the error has the limit");
    assert_eq!((limit.resource.as_str(), limit.limit), ("execsPerMinute", 2));

    // The first refusal: before the next request there may be room for it again.
    let refused = loop {
        let answer = ada.get("/api/projects").await;
        if answer.status != 200 {
            break answer.expect(429).error();
        }
    };
    assert_eq!(refused.details.limit.unwrap().resource, "requestsPerMinute");
    grace.get("/api/me").await.expect(200);
    // A user's own limits apply at once, and one that they omit does not apply.
    let path = format!("/api/users/{id}");
    let given = json!({"limits": {"requestsPerMinute": 0}});
    owner.patch(&path, &given).await.expect(422);
    owner
        .patch(&path, &json!({"limits": {"projects": 3}}))
        .await
        .expect(200);
    for _ in 0..30 {
        ada.get("/api/me").await.expect(200);
    }
    ada.post("/api/projects/one/exec", &ls).await.expect(409);
}

#[tokio::test]
async fn disk_usage_is_measured_and_limited() {
    let world = World::with(|settings| settings.limits.per_member.disk_mib = Some(10)).await;
    let options = reconcile::Options {
        measure: Duration::from_millis(50),
        ..reconcile::Options::default()
    };
    Worker::spawn_with(
        world.app.core().clone(),
        world.app.callback.clone(),
        options,
        world.app.shutdown.clone(),
    );
    let ada = world.member("ada").await;
    let waiting = ada.with("prefer", "wait=60");
    waiting
        .post("/api/projects", &json!({"name": "one"}))
        .await
        .expect(201);
    let put = |bytes: usize| {
        let (ada, body) = (ada.clone(), vec![b'x'; bytes]);
        let path = "/api/projects/one/files?path=x";
        async move { ada.send_bytes(Method::PUT, path, None, body.into()).await }
    };
    assert!(put(1 << 20).await.status.is_success());
    // The request is refused at its head, while the client still sends the body.
    let too_much = put(11 << 20).await.expect(403).error();
    let limit = too_much.details.limit.expect("the error has the limit");
    assert_eq!((limit.resource.as_str(), limit.limit), ("diskMib", 10));

    world.driver.disk_bytes.store(11 << 20, Ordering::Relaxed);
    while ada.get("/api/me").await.expect(200).json()["used"]["diskMib"] != 11 {
        tokio::task::yield_now().await;
    }
    let refused = put(1).await.expect(403).error();
    assert!(
        refused.error.contains("limited to 10 MiB on disk"),
        "{}",
        refused.error
    );
    let limit = refused.details.limit.expect("the error has the limit");
    assert_eq!((limit.resource.as_str(), limit.limit), ("diskMib", 10));
    ada.post("/api/projects", &json!({"name": "two", "start": false}))
        .await
        .expect(403);
    ada.post_empty("/api/projects/one/stop").await.expect(202);
    ada.post_empty("/api/projects/one/start").await.expect(403);
    // Deleted files free space.
    world.driver.disk_bytes.store(1 << 20, Ordering::Relaxed);
    while ada.post_empty("/api/projects/one/start").await.status != 202 {
        tokio::task::yield_now().await;
    }
}
