//! Retention tests: old events, agent steps and audit entries are deleted, newer ones stay, and audit entries are
//! exported first.

use fsa_server::{
    reconcile::retention::{Deleted, delete_expired},
    settings::{AuditRetention, Retention},
};
use serde_json::Value;

use crate::common::{World, project};

#[tokio::test]
async fn old_events_and_agent_steps_are_deleted_and_newer_ones_stay() {
    let world = World::new().await;
    let ada = world.member("ada").await;
    let todo = project(&ada, "todo").await;
    world.database.sql(&format!(
        "insert into events (owner_id, project_id, kind, message, created_at)
             select p.owner_id, p.id, 'started', n::text, now() - make_interval(days => n)
             from projects p, generate_series(1, 9) n where p.id = '{id}';
         insert into tasks (id, project_id, agent, prompt, timeout_seconds, state, ended_at)
             select gen_random_uuid(), '{id}', 'claude', n::text, 60, 'succeeded', now() - make_interval(days => n)
             from generate_series(1, 9) n;
         insert into task_steps (task_id, sequence, kind, data)
             select t.id, n, 'text', '{{}}' from tasks t, generate_series(1, 3) n",
        id = todo.id
    ));
    // Events have the order of their ids, and those of the project's creation are the newest.
    let messages = "select coalesce(string_agg(message, ',' order by message), '') from events where message ~ '^[0-9]$'";
    let keep = Retention {
        events_days: Some(5),
        agent_steps_days: Some(7),
        audit: None,
    };

    let deleted = delete_expired(&world.app.store, &keep).await.unwrap();

    assert_eq!(
        deleted,
        Deleted {
            events: 5,
            agent_steps: 9,
            audit_entries: 0
        }
    );
    assert_eq!(world.database.sql(messages), "1,2,3,4");
    assert_eq!(
        world.database.sql("select count(*) from tasks"),
        "9",
        "the runs stay"
    );
    assert_eq!(world.database.sql("select count(*) from task_steps"), "18");
    let again = delete_expired(&world.app.store, &keep).await.unwrap();
    assert_eq!(again, Deleted::default());
}

#[tokio::test]
async fn audit_entries_are_exported_before_they_are_deleted() {
    let world = World::new().await;
    world.database.sql(
        "insert into audit (at, action, object, result)
             select timestamptz '2020-01-30 12:00Z' + make_interval(days => n), 'test', n::text, 'ok'
             from generate_series(0, 4999) n where n < 4 or n > 4997",
    );
    let newer = world
        .database
        .sql("select count(*) from audit where at > '2033-01-01'");
    let folder = tempfile::tempdir().unwrap();
    let keep = Retention {
        audit: Some(AuditRetention {
            days: 30,
            folder: folder.path().join("audit"),
        }),
        ..Retention::default()
    };

    let deleted = delete_expired(&world.app.store, &keep).await.unwrap();

    assert_eq!(deleted.audit_entries, 4);
    let exported = |month: &str| -> Vec<String> {
        let text = std::fs::read_to_string(folder.path().join("audit").join(month)).unwrap();
        text.lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["object"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(exported("2020-01.jsonl"), ["0", "1"]);
    assert_eq!(exported("2020-02.jsonl"), ["2", "3"]);
    assert_eq!(
        world
            .database
            .sql("select count(*) from audit where at > '2033-01-01'"),
        newer
    );
    assert_eq!(
        world
            .database
            .sql("select count(*) from audit where action = 'test' and at < '2021-01-01'"),
        "0"
    );
}

#[tokio::test]
async fn audit_entries_stay_where_they_cannot_be_exported() {
    let world = World::new().await;
    world
        .database
        .sql("insert into audit (at, action, object, result) values ('2020-01-30', 'test', 'x', 'ok')");
    let file = tempfile::NamedTempFile::new().unwrap();
    let keep = Retention {
        audit: Some(AuditRetention {
            days: 30,
            folder: file.path().join("audit"),
        }),
        ..Retention::default()
    };

    let error = delete_expired(&world.app.store, &keep).await.unwrap_err();

    assert!(error.to_string().contains("could not be exported"), "{error}");
    assert_eq!(
        world
            .database
            .sql("select count(*) from audit where action = 'test'"),
        "1"
    );
}
