//! Event stream tests: events are in order, none is skipped, and a client resumes where it stopped.

use fsa_model::event::EventKind;
use serde_json::json;

use crate::common::{World, project};

#[tokio::test]
async fn a_stream_has_past_and_new_events() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    let mut events = owner.events("/api/projects/todo/events").await;
    let created = events.next().await.unwrap();
    assert_eq!(created.event.kind, EventKind::ProjectCreated);
    assert_eq!(created.id, created.event.id);

    owner.post_empty("/api/projects/todo/stop").await.expect(202);
    let stopped = events.next().await.unwrap();
    assert_eq!(stopped.event.kind, EventKind::LifecycleRequested);
    assert_eq!(stopped.event.data, json!({"action": "stop", "by": "owner"}));
    assert!(stopped.id > created.id);
}

#[tokio::test]
async fn a_reconnecting_client_gets_the_events_it_missed() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;
    let path = "/api/projects/todo/events";
    let first = owner.events(path).await.next().await.unwrap();
    owner.post_empty("/api/projects/todo/stop").await.expect(202);
    owner.post_empty("/api/projects/todo/start").await.expect(202);

    let back = owner.with("last-event-id", &first.id.to_string());
    let mut events = back.events(path).await;
    let missed = [events.next().await.unwrap(), events.next().await.unwrap()];
    assert_eq!(
        missed
            .each_ref()
            .map(|m| m.event.data["action"].as_str().unwrap()),
        ["stop", "start"]
    );

    // The same as JSON, from another server on the same database.
    let page = owner
        .get(&format!("{path}?follow=false&cursor={}", first.id))
        .await
        .expect(200)
        .json();
    let ids: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [missed[0].id, missed[1].id]);
    owner.with("last-event-id", "x").get(path).await.expect(400);
}

#[tokio::test]
async fn a_tail_has_new_events_only() {
    let world = World::new().await;
    let owner = world.owner().await;
    project(&owner, "todo").await;

    let mut events = owner.events("/api/projects/todo/events?tail=true").await;
    owner.post_empty("/api/projects/todo/stop").await.expect(202);

    assert_eq!(
        events.next().await.unwrap().event.kind,
        EventKind::LifecycleRequested
    );
}

#[tokio::test]
async fn the_user_stream_has_own_projects_only() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let mut events = ada.events("/api/events").await;

    let theirs = project(&grace, "theirs").await;
    let (first, second) = (project(&ada, "first").await, project(&ada, "second").await);

    let seen = [events.next().await.unwrap(), events.next().await.unwrap()];
    assert_eq!(seen.each_ref().map(|m| m.event.project_id), [first.id, second.id]);
    assert!(seen.iter().all(|m| m.event.project_id != theirs.id));
    ada.get(&format!("/api/projects/{}/events", theirs.id))
        .await
        .expect(404);
}

#[tokio::test]
async fn concurrent_writes_skip_no_event() {
    const EACH: usize = 40;
    let world = World::new().await;
    let replica = world.replica().await;
    let ada = world.member("ada").await;
    let token = ada
        .post("/api/tokens", &json!({"name": "other"}))
        .await
        .expect(201)
        .json();
    let there = replica.anonymous().token(token["token"].as_str().unwrap());
    project(&ada, "one").await;
    project(&ada, "two").await;
    let mut events = ada.events("/api/events").await;

    let write = |client: crate::common::Client, name: &'static str| {
        tokio::spawn(async move {
            for n in 0..EACH {
                let body = json!({"envVars": {"N": n.to_string()}});
                client
                    .patch(&format!("/api/projects/{name}/environment"), &body)
                    .await
                    .expect(200);
            }
        })
    };
    let (first, second) = (write(ada.clone(), "one"), write(there, "two"));
    let mut seen = Vec::new();
    while seen.len() < 2 + 2 * EACH {
        seen.push(events.next().await.unwrap().id);
    }
    first.await.unwrap();
    second.await.unwrap();

    let written: Vec<i64> = world
        .database
        .sql("select id from events order by id")
        .lines()
        .map(|id| id.parse().unwrap())
        .collect();
    assert_eq!(seen, written);
}

#[tokio::test]
async fn a_stream_ends_when_the_session_does() {
    let world = World::new().await;
    let browser = world.member_in_browser("ada").await;
    let mut events = browser.events("/api/events").await;

    browser.post_empty("/api/auth/sign-out").await.expect(204);

    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_draining_server_ends_its_streams() {
    let world = World::with(|settings| settings.drain = std::time::Duration::from_secs(60)).await;
    let owner = world.owner().await;
    let mut events = owner.events("/api/events").await;

    world.stop().await;

    assert!(events.next().await.is_none());
}
