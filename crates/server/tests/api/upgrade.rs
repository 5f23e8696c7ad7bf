//! Upgrade tests: rows that an earlier release wrote are served by this one.

use serde_json::json;

use crate::common::{Database, World};

/// The last migration before the tables' standard terms.
const BEFORE_STANDARD_TERMS: i64 = 60;

#[tokio::test]
async fn rows_of_an_earlier_release_are_served_after_the_upgrade() {
    let database = Database::at_migration(BEFORE_STANDARD_TERMS).await;
    database.sql(
        r#"insert into users (id, login, role)
               values ('018f0000-0000-7000-8000-000000000001', 'owner', 'owner');
           insert into projects (id, owner_id, name, image, size, region, environment)
               values ('018f0000-0000-7000-8000-000000000002', '018f0000-0000-7000-8000-000000000001', 'shop',
                       '{"template": "web"}', 'small', 'here', '');
           insert into sandboxes (id, project_id, resource, control_token, wanted, request_environment, trouble,
                                  attempted_generation, attempts, next_attempt_at)
               values ('018f0000-0000-7000-8000-000000000003', '018f0000-0000-7000-8000-000000000002',
                       'shop-agentruntime-abcdef', '', 'running', '',
                       '{"kind": "passing", "message": "The registry does not answer."}', 1, 3, now() + interval '1 day');
           insert into events (owner_id, project_id, sandbox_id, kind, message, data)
               values ('018f0000-0000-7000-8000-000000000001', '018f0000-0000-7000-8000-000000000002',
                       '018f0000-0000-7000-8000-000000000003', 'wished', 'Asked to start the sandbox.',
                       '{"wish": "start", "by": "owner"}'),
                      ('018f0000-0000-7000-8000-000000000001', '018f0000-0000-7000-8000-000000000002',
                       '018f0000-0000-7000-8000-000000000003', 'attemptFailed', 'The registry does not answer.',
                       '{"trouble": {"kind": "passing", "message": "The registry does not answer."}, "attempts": 3}')"#,
    );

    let world = World::upgraded(database).await;

    let owner = world.owner().await;
    let sandbox = owner.get("/api/sandbox/shop").await.expect(200);
    assert_eq!(sandbox.json()["status"], "ERROR");
    assert_eq!(sandbox.json()["error"]["kind"], "transient");
    assert_eq!(
        sandbox.json()["error"]["message"],
        "The registry does not answer."
    );
    let events = owner
        .get("/api/projects/shop/events?follow=false")
        .await
        .expect(200);
    let event = |index: usize| events.json()["items"][index].clone();
    assert_eq!(event(0)["kind"], "lifecycleRequested");
    assert_eq!(event(0)["data"], json!({"action": "start", "by": "owner"}));
    assert_eq!(event(1)["data"]["failure"]["kind"], "transient");
    let gone = world
        .database
        .sql("delete from projects where name = 'shop' returning name");
    assert_eq!(
        gone, "shop",
        "the renamed triggers allow the deletion of a project"
    );
}

/// The last migration before branches.
const BEFORE_BRANCHES: i64 = 75;
/// A project with a database and a sandbox, as every release until then writes them.
const PROJECT: &str = r#"
    insert into projects (id, owner_id, name, image, size, region, environment)
        values ('{id}2', '{owner}', '{name}', '{"template": "web"}', 'small', 'here', '');
    insert into databases (project_id, resource, password) values ('{id}2', '{name}-agentruntime-abcdef', '')
        on conflict (project_id) do nothing;
    insert into sandboxes (id, project_id, resource, control_token, desired_state, request_environment)
        values ('{id}3', '{id}2', '{name}-agentruntime-abcdef', '', 'running', '');
    insert into tasks (id, project_id, agent, prompt, timeout_seconds)
        values ('{id}4', '{id}2', 'claude', 'Begin.', 60)"#;
const OWNER: &str = "018f0000-0000-7000-8000-000000000001";

fn project_of_an_earlier_release(name: &str, id: &str) -> String {
    PROJECT
        .replace("{id}", id)
        .replace("{owner}", OWNER)
        .replace("{name}", name)
}

#[tokio::test]
async fn projects_of_an_earlier_release_have_the_branch_main() {
    let database = Database::at_migration(BEFORE_BRANCHES).await;
    database.sql(&format!(
        "insert into users (id, login, role) values ('{OWNER}', 'owner', 'owner')"
    ));
    database.sql(&project_of_an_earlier_release(
        "shop",
        "018f0000-0000-7000-8000-10000000000",
    ));
    database.sql("update databases set status = 'READY', ever_ready = true");

    let world = World::upgraded(database).await;

    let owner = world.owner().await;
    let states = "select database_status || ' ' || database_ever_ready from branches";
    assert_eq!(world.database.sql(states), "READY true");
    // During a rolling upgrade, the earlier release still writes.
    world.database.sql(&project_of_an_earlier_release(
        "blog",
        "018f0000-0000-7000-8000-20000000000",
    ));
    for name in ["shop", "blog"] {
        for reference in [
            name.to_owned(),
            format!("{name}@main"),
            format!("{name}?branch=main"),
        ] {
            let sandbox = owner.get(&format!("/api/sandbox/{reference}")).await.expect(200);
            assert_eq!(sandbox.json()["branch"], "main", "{reference}");
        }
        let tasks = owner
            .get(&format!("/api/projects/{name}/tasks"))
            .await
            .expect(200);
        assert_eq!(tasks.json()["items"][0]["branch"], "main", "{name}");
    }
    let volumes = "select bool_and(volume_id = project_id) from sandboxes";
    assert_eq!(world.database.sql(volumes), "t");
}
