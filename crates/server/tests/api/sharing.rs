//! Project sharing tests: how members find a shared project, which events they receive, and how a share ends.
//! Permissions are in `authorization.rs`.

use fsa_model::event::EventKind;
use http::Method;
use serde_json::{Value, json};

use crate::common::{Client, World, project};

async fn share(owner: &Client, project: &str, user: &str, role: &str) {
    owner
        .put(
            &format!("/api/projects/{project}/members/{user}"),
            &json!({"role": role}),
        )
        .await
        .expect(200);
}

fn names(list: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(&one["ownerLogin"]), text(&one["name"]), text(&one["role"])))
        .collect()
}

#[tokio::test]
async fn shared_projects_are_listed_with_the_role_in_pages() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    project(&ada, "api").await;
    project(&ada, "todo").await;
    project(&ada, "secret").await;
    project(&grace, "todo").await;
    share(&ada, "api", "grace", "viewer").await;
    share(&ada, "todo", "grace", "admin").await;

    let mut listed = Vec::new();
    let mut cursor = String::new();
    for _ in 0..3 {
        let page = grace
            .get(&format!("/api/projects?limit=1&cursor={cursor}"))
            .await
            .expect(200)
            .json();
        listed.extend(names(&page));
        cursor = page["nextCursor"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(cursor, "", "there is no fourth page");
    listed.sort();
    let is = |owner: &str, name: &str, role: &str| (owner.to_owned(), name.to_owned(), role.to_owned());
    assert_eq!(
        listed,
        [
            is("ada", "api", "viewer"),
            is("ada", "todo", "admin"),
            is("grace", "todo", "owner")
        ]
    );
    for limit in ["0", "101"] {
        let refused = grace.get(&format!("/api/projects?limit={limit}")).await;
        assert_eq!(refused.expect(422).field(), "limit");
    }
}

#[tokio::test]
async fn a_name_refers_to_the_own_project_first_and_must_be_unambiguous() {
    let world = World::new().await;
    let (ada, bob, grace) = (
        world.member("ada").await,
        world.member("bob").await,
        world.member("grace").await,
    );
    for owner in [&ada, &bob] {
        project(owner, "todo").await;
        share(owner, "todo", "grace", "viewer").await;
    }
    let owner = async |path: &str| {
        let found = grace
            .get(&format!("/api/projects/{path}"))
            .await
            .expect(200)
            .json();
        found["ownerLogin"].as_str().unwrap().to_owned()
    };

    let several = grace.get("/api/projects/todo").await.expect(409).error();
    assert!(several.error.contains("OWNER/todo"), "{}", several.error);
    assert_eq!(owner("bob%2Ftodo").await, "bob");
    grace.get("/api/projects/grace%2Ftodo").await.expect(404);
    bob.delete("/api/projects/todo/members/grace").await.expect(204);
    assert_eq!(owner("todo").await, "ada");
    project(&grace, "todo").await;
    assert_eq!(owner("todo").await, "grace");
    assert_eq!(owner("ada%2Ftodo").await, "ada");
}

#[tokio::test]
async fn refusals_name_the_required_role() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    project(&ada, "todo").await;
    grace.post_empty("/api/projects/todo/restart").await.expect(404);
    share(&ada, "todo", "grace", "viewer").await;

    let refused = grace
        .post_empty("/api/projects/todo/restart")
        .await
        .expect(403)
        .error();

    assert_eq!(
        refused.error,
        "This needs the role editor in the project, and you have the role viewer."
    );
    for path in ["/proc/self/environ", "../.bash_history", "/home/dev/.claude.json"] {
        let read = grace.get(&format!("/api/projects/todo/files?path={path}")).await;
        assert!(
            read.expect(403).error().error.contains("the role editor"),
            "{path}"
        );
    }
    grace
        .get("/api/projects/todo/files?path=src/main.rs&user=root")
        .await
        .expect(403);
    // The caller's role is not the reason.
    grace
        .get("/api/projects/todo/files?path=src/main.rs")
        .await
        .expect(409);
}

#[tokio::test]
async fn members_receive_events_until_the_share_ends() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let todo = project(&ada, "todo").await;
    share(&ada, "todo", "grace", "viewer").await;
    let mut all = grace.events("/api/events?tail=true").await;
    let mut one = grace
        .events(&format!("/api/projects/{}/events?tail=true", todo.id))
        .await;

    ada.post_empty("/api/projects/todo/stop").await.expect(202);
    for stream in [&mut all, &mut one] {
        let message = stream.next().await.expect("an event");
        assert_eq!(message.event.data["action"], "stop");
    }
    ada.delete("/api/projects/todo/members/grace").await.expect(204);

    // The last event may be the withdrawal itself.
    while let Some(message) = one.next().await {
        assert_eq!(message.event.data["fields"], json!(["members"]));
    }
    let last = all.next().await.expect("an event").event;
    assert_eq!((last.kind, last.project_id), (EventKind::ShareEnded, todo.id));
    assert_eq!(
        (last.message.as_str(), &last.data),
        ("A project is no longer shared with you.", &json!({}))
    );
    ada.post_empty("/api/projects/todo/start").await.expect(202);
    let own = project(&grace, "own").await;
    assert_eq!(all.next().await.expect("an event").event.project_id, own.id);
    // Others do not receive that event, and no user receives it twice.
    let kinds = async |client: &Client| {
        let events = client.get("/api/events?follow=false").await.expect(200).json();
        let all = events["items"].as_array().unwrap().clone();
        let kinds = all.iter().map(|event| event["kind"].as_str().unwrap().to_owned());
        kinds.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kinds(&grace).await, "shareEnded projectCreated");
    assert!(!kinds(&ada).await.contains("shareEnded"));
    share(&ada, "todo", "grace", "viewer").await;
    let again = kinds(&grace).await;
    assert!(
        again.contains("lifecycleRequested") && !again.contains("shareEnded"),
        "{again}"
    );
    ada.delete("/api/projects/todo/members/grace").await.expect(204);
    grace
        .get(&format!("/api/projects/{}/events?follow=false", todo.id))
        .await
        .expect(404);
}

#[tokio::test]
async fn an_editor_who_becomes_a_viewer_can_only_read() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    project(&ada, "todo").await;
    share(&ada, "todo", "grace", "editor").await;
    let set = json!({"envVars": {"A": "1"}});
    grace
        .patch("/api/projects/todo/environment", &set)
        .await
        .expect(200);

    share(&ada, "todo", "grace", "viewer").await;

    grace
        .patch("/api/projects/todo/environment", &set)
        .await
        .expect(403);
    let seen = grace
        .get("/api/projects/todo/environment")
        .await
        .expect(200)
        .json();
    assert_eq!(seen["envVars"], json!({"A": null}));
    let members = grace.get("/api/projects/todo/members").await.expect(200).json();
    let roles: Vec<_> = members["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| format!("{} {}", member["login"], member["role"]))
        .collect();
    assert_eq!(roles, ["\"ada\" \"owner\"", "\"grace\" \"viewer\""]);
}

#[tokio::test]
async fn members_can_leave_and_the_owner_cannot() {
    let world = World::new().await;
    let (ada, grace) = (world.member("ada").await, world.member("grace").await);
    let todo = project(&ada, "todo").await;
    share(&ada, "todo", "grace", "viewer").await;

    grace.delete("/api/projects/todo/members/grace").await.expect(204);

    grace.get(&format!("/api/projects/{}", todo.id)).await.expect(404);
    ada.delete("/api/projects/todo/members/ada").await.expect(404);
    ada.delete("/api/projects/todo/members/grace").await.expect(404);
    let with = |user: &str, role: &str| {
        let (path, body) = (
            format!("/api/projects/todo/members/{user}"),
            json!({"role": role}),
        );
        let ada = ada.clone();
        async move { ada.send(Method::PUT, &path, Some(&body)).await }
    };
    with("ada", "viewer").await.expect(409);
    with("nobody", "viewer").await.expect(404);
    assert_eq!(with("grace", "owner").await.expect(422).field(), "role");
    let audited = "select string_agg(action, ',' order by id) from audit where action like 'project.%share'";
    assert_eq!(world.database.sql(audited), "project.share,project.unshare");
}
