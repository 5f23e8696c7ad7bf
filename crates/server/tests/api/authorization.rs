//! Authorization tests: every operation of the API document, tried by every kind of client. [`TABLE`] has
//! what each operation needs, and [`expected`] has the result for each client. An operation that is missing
//! in the document or in the table fails the test.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fsa_model::sharing::ProjectRole::{self, Admin, Editor, Owner, Viewer};
use http::Method;
use serde_json::{Value, json};

use crate::common::{Client, World, project};

/// The permission that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Need {
    /// Nothing.
    Anyone,
    /// A signed-in user.
    User,
    /// An owner of the system.
    System,
    /// The object in the path belongs to the user; others get 404.
    Mine,
    /// This role in the project, or a higher one.
    In(ProjectRole),
}

use Need::{Anyone, In, Mine, System, User};

/// An operation (with a query where that changes its permission), the permission that it needs, and a valid
/// body, so that a refusal can only be due to the client.
#[rustfmt::skip]
const TABLE: &[(&str, Need, &str)] = &[
    ("get /healthz", Anyone, ""),
    ("get /readyz", Anyone, ""),
    ("get /metrics", Anyone, ""),
    ("get /api/auth/link", Anyone, ""),
    ("post /api/auth/link", Anyone, r#"{"token": "x"}"#),
    ("post /api/auth/password", Anyone, r#"{"login": "x", "password": "x"}"#),
    ("put /api/auth/password", User, r#"{"password": "long enough"}"#),
    ("post /api/auth/sign-out", User, ""),
    ("get /api/auth/sessions", User, ""),
    ("delete /api/auth/sessions/{session}", Mine, ""),
    ("post /api/auth/links", User, ""),
    ("get /api/auth/methods", Anyone, ""),
    ("post /api/auth/github", Anyone, r#"{}"#),
    ("get /api/auth/github/callback", Anyone, ""),
    ("get /api/me", User, ""),
    ("get /api/me/github", User, ""),
    ("delete /api/me/github", User, ""),
    ("get /api/repositories", User, ""),
    ("get /api/tokens", User, ""),
    ("post /api/tokens", User, r#"{"name": "x"}"#),
    ("delete /api/tokens/{token}", Mine, ""),
    ("get /api/users", System, ""),
    ("post /api/users/invites", System, ""),
    ("patch /api/users/{user}", System, r#"{}"#),
    ("delete /api/users/{user}", System, ""),
    ("post /api/users/{user}/link", System, ""),
    ("get /api/audit", System, ""),
    ("get /api/keys", System, ""),
    ("delete /api/keys/{key}", System, ""),
    ("get /api/me/agent-credentials", User, ""),
    ("patch /api/me/agent-credentials", User, r#"{"envVars": {}}"#),
    ("get /api/agents", User, ""),
    ("get /api/images", User, ""),
    ("get /api/regions", User, ""),
    ("get /api/system/checks", System, ""),
    ("get /api/system/usage", System, ""),
    ("post /api/images", System, ""),
    ("delete /api/images/{name}", System, ""),
    ("get /api/events", User, ""),
    ("get /api/projects", User, ""),
    ("post /api/projects", User, r#"{"name": "another"}"#),
    ("get /api/auth/preview", Anyone, ""),
    // These depend on the cookies that the browser sends for that host.
    ("get /api/ingress/check", Anyone, ""),
    ("get /api/ingress/enter", Anyone, ""),

    ("get /api/projects/{project}/agent", In(Viewer), ""),
    ("patch /api/projects/{project}/agent", In(Admin), r#"{}"#),
    ("put /api/projects/{project}/git-credential", In(Admin), r#"{"url": "https://git.example/a/b", "username": "x", "password": "x"}"#),
    ("get /api/projects/{project}/git-credential", In(Viewer), ""),
    ("delete /api/projects/{project}/git-credential", In(Admin), ""),
    ("get /api/projects/{project}/git/status", In(Viewer), ""),
    ("get /api/projects/{project}/git/diff", In(Viewer), ""),
    ("get /api/projects/{project}/start-suggestion", In(Viewer), ""),
    ("post /api/projects/{project}/git/stage", In(Editor), r#"{}"#),
    ("post /api/projects/{project}/git/unstage", In(Editor), r#"{}"#),
    ("post /api/projects/{project}/git/commit", In(Editor), r#"{"message": "x"}"#),
    ("post /api/projects/{project}/git/push", In(Editor), ""),
    ("post /api/projects/{project}/git/pull", In(Editor), ""),
    ("post /api/projects/{project}/git/abort", In(Editor), ""),
    ("post /api/projects/{project}/git/publish", In(Owner), r#"{}"#),
    ("get /api/projects/{project}/tasks", In(Viewer), ""),
    ("post /api/projects/{project}/tasks", In(Editor), r#"{"prompt": "x"}"#),
    ("get /api/projects/{project}/tasks/{task}", In(Viewer), ""),
    ("delete /api/projects/{project}/tasks/{task}", In(Editor), ""),
    ("get /api/projects/{project}/tasks/{task}/steps", In(Viewer), ""),
    ("get /api/projects/{project}/tasks/{task}/diff", In(Viewer), ""),
    ("get /api/projects/{project}", In(Viewer), ""),
    ("get /api/projects/{project}/branches", In(Viewer), ""),
    ("post /api/projects/{project}/branches", In(Editor), r#"{"name": "x"}"#),
    ("get /api/projects/{project}/branches/{branch}", In(Viewer), ""),
    ("delete /api/projects/{project}/branches/{branch}", In(Editor), ""),
    ("post /api/projects/{project}/branches/{branch}/promote", In(Editor), ""),
    ("get /api/projects/{project}/members", In(Viewer), ""),
    ("put /api/projects/{project}/members/{member}", In(Admin), r#"{"role": "viewer"}"#),
    ("delete /api/projects/{project}/members/{member}", In(Admin), ""),
    ("patch /api/projects/{project}", In(Admin), r#"{}"#),
    ("delete /api/projects/{project}", In(Owner), ""),
    ("get /api/sandbox/{project}", In(Viewer), ""),
    ("post /api/sandbox/{project}", In(Editor), ""),
    ("delete /api/sandbox/{project}", In(Editor), ""),
    ("post /api/projects/{project}/start", In(Editor), ""),
    ("post /api/projects/{project}/stop", In(Editor), ""),
    ("post /api/projects/{project}/restart", In(Editor), ""),
    ("get /api/projects/{project}/environment", In(Viewer), ""),
    ("get /api/projects/{project}/environment?reveal=true", In(Editor), ""),
    ("put /api/projects/{project}/environment", In(Editor), r#"{"envVars": {}}"#),
    ("patch /api/projects/{project}/environment", In(Editor), r#"{"envVars": {}}"#),
    ("get /api/projects/{project}/database", In(Viewer), ""),
    ("get /api/projects/{project}/database?reveal=true", In(Editor), ""),
    ("get /api/projects/{project}/database/connection", In(Editor), ""),
    ("get /api/projects/{project}/events", In(Viewer), ""),
    ("get /api/projects/{project}/ports", In(Viewer), ""),
    ("get /api/projects/{project}/ports/{port}", In(Viewer), ""),
    ("put /api/projects/{project}/ports/{port}", In(Admin), r#"{"sharing": "private"}"#),
    ("post /api/projects/{project}/exec", In(Editor), r#"{"command": ["true"]}"#),
    ("get /api/projects/{project}/exec", In(Editor), ""),
    ("get /api/projects/{project}/snapshot-schedule", In(Viewer), ""),
    ("put /api/projects/{project}/snapshot-schedule", In(Admin), r#"{"hourly": 1, "daily": 1}"#),
    ("delete /api/projects/{project}/snapshot-schedule", In(Admin), ""),
    ("get /api/projects/{project}/snapshots", In(Viewer), ""),
    ("post /api/projects/{project}/snapshots", In(Editor), ""),
    ("get /api/projects/{project}/snapshots/{snapshot}", In(Viewer), ""),
    ("delete /api/projects/{project}/snapshots/{snapshot}", In(Editor), ""),
    ("get /api/projects/{project}/snapshots/{snapshot}/diff", In(Viewer), ""),
    ("get /api/projects/{project}/snapshots/{snapshot}/diff/database", In(Editor), ""),
    ("get /api/projects/{project}/snapshots/{snapshot}/diff/file", In(Viewer), ""),
    ("post /api/projects/{project}/snapshots/{snapshot}/restore", In(Editor), ""),
    ("get /api/projects/{project}/backups", In(Viewer), ""),
    ("post /api/projects/{project}/backups", In(Editor), ""),
    ("get /api/backups", User, ""),
    ("get /api/backups/{backup}", Mine, ""),
    ("delete /api/backups/{backup}", Mine, ""),
    ("post /api/backups/{backup}/restore", Mine, r#"{"name": "restored"}"#),
    ("post /api/backups/{backup}/verify", Mine, ""),
    ("post /api/backups/{backup}/cancel", Mine, ""),
    ("get /api/projects/{project}/files", In(Viewer), ""),
    ("put /api/projects/{project}/files", In(Editor), ""),
    ("delete /api/projects/{project}/files", In(Editor), ""),
    ("post /api/projects/{project}/files/move", In(Editor), r#"{"from": "x", "to": "y"}"#),
    ("get /api/projects/{project}/terminal", In(Viewer), ""),
    ("get /api/projects/{project}/terminals", In(Viewer), ""),
    ("delete /api/projects/{project}/terminals/{terminal}", In(Editor), ""),
    ("get /api/projects/{project}/logs", In(Viewer), ""),
    ("get /api/projects/{project}/usage", In(Viewer), ""),
];

/// The client that tries an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// No credential.
    Anonymous,
    /// An expired token of the project's owner.
    Expired,
    /// A signed-in user with whom the project is not shared.
    NonMember,
    /// An owner of the system with whom the project is not shared.
    SystemOwner,
    /// A user with this role in the project.
    Is(ProjectRole),
    /// The project's owner, with a read-only token.
    ReadOnly,
    /// The project's owner, with a token for another project.
    Elsewhere,
}

const ALL_CLIENTS: [Role; 10] = [
    Role::Anonymous,
    Role::Expired,
    Role::NonMember,
    Role::SystemOwner,
    Role::Elsewhere,
    Role::ReadOnly,
    Role::Is(Viewer),
    Role::Is(Editor),
    Role::Is(Admin),
    Role::Is(Owner),
];

/// The expected refusal; 0 for none of the three.
fn expected(need: Need, who: Role, operation: &str) -> u16 {
    let changes = !operation.starts_with("get ");
    let allowed_for_project_token = ["get /api/me", "get /api/projects"].contains(&operation);
    match (need, who) {
        // These identify a signed-in user, and belong to no project.
        (Anyone, Role::Elsewhere)
            if [
                "get /api/auth/github/callback",
                "get /api/auth/preview",
                "get /api/ingress/enter",
            ]
            .contains(&operation) =>
        {
            403
        }
        (Anyone, _) => 0,
        (_, Role::Anonymous | Role::Expired) => 401,
        (In(_), Role::NonMember | Role::SystemOwner) => 404,
        (In(least), Role::Is(role)) => {
            if role < least {
                403
            } else {
                0
            }
        }
        (In(least), Role::ReadOnly) => {
            if changes || least > Viewer {
                403
            } else {
                0
            }
        }
        (In(_), Role::Elsewhere) => 404,
        (User | System | Mine, Role::Elsewhere) => {
            if allowed_for_project_token {
                0
            } else {
                403
            }
        }
        (System, Role::SystemOwner) => 0,
        (System, _) => 403,
        (User | Mine, Role::ReadOnly) => {
            if changes {
                403
            } else {
                0
            }
        }
        (User | Mine, Role::Is(Owner)) => 0,
        (User, _) => 0,
        (Mine, _) => 404,
    }
}

/// A world in which Ada has a project that is shared with one user of each role.
struct Scene {
    world: World,
    ada: Client,
    people: Vec<(Role, Client)>,
    count: usize,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let ada = world.member_in_browser("ada").await;
        let elsewhere = project(&ada, "elsewhere").await;
        let token = async |body: Value| {
            let made = ada.post("/api/tokens", &body).await.expect(201).json();
            world.anonymous().token(made["token"].as_str().unwrap())
        };
        let people = vec![
            (Role::Anonymous, world.anonymous()),
            (
                Role::Expired,
                token(json!({"name": "old", "expiresAt": "2999-01-01T00:00:00Z"})).await,
            ),
            (Role::NonMember, world.member_in_browser("grace").await),
            (Role::SystemOwner, world.owner_in_browser().await),
            (
                Role::Elsewhere,
                token(json!({"name": "elsewhere", "project": elsewhere.id})).await,
            ),
            (
                Role::ReadOnly,
                token(json!({"name": "reader", "scope": "read"})).await,
            ),
            (Role::Is(Viewer), world.member_in_browser("viewer").await),
            (Role::Is(Editor), world.member_in_browser("editor").await),
            (Role::Is(Admin), world.member_in_browser("admin").await),
            (Role::Is(Owner), ada.clone()),
        ];
        world
            .database
            .sql("update api_tokens set expires_at = now() - interval '1 second' where name = 'old'");
        world.member_in_browser("friend").await;
        Self {
            world,
            ada,
            people,
            count: 0,
        }
    }

    /// Creates one of each object that the operation names.
    async fn fixtures(&mut self, operation: &str) -> BTreeMap<&'static str, String> {
        self.count += 1;
        let name = format!("p{}", self.count);
        let mut fixtures = BTreeMap::from([
            ("port", "3000".to_owned()),
            ("terminal", "main".to_owned()),
            ("member", "friend".to_owned()),
            ("number", self.count.to_string()),
        ]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        if operation.contains("{project}") {
            let project = self
                .ada
                .post("/api/projects", &json!({"name": name, "start": false}))
                .await
                .expect(201)
                .json();
            let path = format!("/api/projects/{}", text(&project["id"]));
            for (login, role) in [
                ("viewer", "viewer"),
                ("editor", "editor"),
                ("admin", "admin"),
                ("friend", "viewer"),
            ] {
                let body = json!({"role": role});
                self.ada
                    .put(&format!("{path}/members/{login}"), &body)
                    .await
                    .expect(200);
            }
            if operation.ends_with("/git-credential") {
                let login = json!({"url": "https://git.example/a/b", "username": "x", "password": "x"});
                self.ada
                    .put(&format!("{path}/git-credential"), &login)
                    .await
                    .expect(200);
            }
            if operation.contains("{task}") {
                let task = self
                    .ada
                    .post(&format!("{path}/tasks"), &json!({"prompt": "x"}))
                    .await;
                fixtures.insert("task", text(&task.expect(201).json()["id"]));
            }
            if operation.contains("{snapshot}") {
                let id = uuid::Uuid::now_v7();
                self.world.database.sql(&format!(
                    "insert into snapshots (id, project_id, volume_id, sandbox_id, resource, cause, state)
                     select '{id}', p.id, p.id, s.id, s.resource, 'manual', 'ready'
                     from projects p join sandboxes s on s.project_id = p.id where p.id = '{}'",
                    text(&project["id"])
                ));
                fixtures.insert("snapshot", id.to_string());
            }
            if operation.contains("{branch}") {
                let branch = json!({"name": "fix", "start": false});
                let branch = self.ada.post(&format!("{path}/branches"), &branch).await;
                fixtures.insert("branch", text(&branch.expect(201).json()["name"]));
            }
            fixtures.insert("project", text(&project["id"]));
        }
        if operation.contains("{backup}") {
            let id = uuid::Uuid::now_v7();
            self.world.database.sql(&format!(
                "insert into backups (id, owner_id, project_name, volume_id, branch, state, repository_snapshot)
                 select '{id}', u.id, '{name}', '{id}', 'main', 'ready', 'absent' from users u where u.login = 'ada'"
            ));
            fixtures.insert("backup", id.to_string());
        }
        if operation.contains("{token}") {
            let token = self
                .ada
                .post("/api/tokens", &json!({"name": name}))
                .await
                .expect(201)
                .json();
            fixtures.insert("token", text(&token["id"]));
        }
        if operation.contains("{name}") {
            let owner = self.client(Role::SystemOwner, operation).await;
            let import = format!("/api/images?name={name}");
            owner
                .send_bytes(Method::POST, &import, Some("application/x-tar"), Bytes::new())
                .await
                .expect(201);
            fixtures.insert("name", name.clone());
        }
        if operation.contains("{key}") {
            fixtures.insert("key", hex::encode(self.world.app.key_ring.ids()[0]));
        }
        if operation.contains("{session}") {
            let link = self.ada.post_empty("/api/auth/links").await.expect(201);
            let other = self.world.sign_in(&crate::common::token_of_link(&link)).await;
            let sessions = other.get("/api/auth/sessions").await.expect(200).json();
            let own = sessions["items"]
                .as_array()
                .unwrap()
                .iter()
                .find(|one| one["current"] == true);
            fixtures.insert("session", text(&own.unwrap()["id"]));
        }
        if operation.contains("{user}") {
            let victim = self
                .world
                .member_in_browser(&format!("victim-{}", self.count))
                .await;
            fixtures.insert(
                "user",
                text(&victim.get("/api/me").await.expect(200).json()["id"]),
            );
        }
        fixtures
    }

    /// A client. It is a new one where the operation ends the client's credential.
    async fn client(&self, who: Role, operation: &str) -> Client {
        let ends = operation == "post /api/auth/sign-out";
        let signed_in = matches!(who, Role::NonMember | Role::SystemOwner | Role::Is(_));
        let client = &self.people.iter().find(|(one, _)| *one == who).unwrap().1;
        if ends && signed_in {
            let link = client.post_empty("/api/auth/links").await.expect(201);
            self.world.sign_in(&crate::common::token_of_link(&link)).await
        } else {
            client.clone()
        }
    }
}

/// Tries an operation, and returns the status. A stream is requested as a page, because it would not end.
async fn try_operation(
    client: &Client,
    operation: &str,
    body: &str,
    fixtures: &BTreeMap<&str, String>,
) -> u16 {
    let (method, path) = operation.split_once(' ').unwrap();
    let mut path = path.to_owned();
    for (name, value) in fixtures {
        path = path.replace(&format!("{{{name}}}"), value);
    }
    assert!(!path.contains('{'), "{path}: a parameter has no value");
    if operation == "post /api/images" {
        path.push_str("?name=x");
    }
    if ["/events", "/logs", "/steps"]
        .iter()
        .any(|end| path.ends_with(end))
    {
        path.push_str("?follow=false");
    }
    if path.ends_with("/files") {
        path.push_str("?path=x");
    }
    let mut body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(body).unwrap()
    };
    if operation == "post /api/projects" {
        body["name"] = format!("new-{}", fixtures["number"]).into();
    }
    let method: Method = method.to_uppercase().parse().unwrap();
    let body = (!body.is_null()).then_some(&body);
    // No worker takes snapshots here.
    let client = client.with("prefer", "wait=0");
    client.send(method, &path, body).await.status.as_u16()
}

#[tokio::test]
async fn the_table_has_every_operation_and_no_other() {
    let world = World::new().await;
    let document = world
        .anonymous()
        .get("/api/openapi.json")
        .await
        .expect(200)
        .json();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert(format!("{method} {path}"));
        }
    }
    // The table names the one user parameter that may be a login `{member}`; the document names it `{user}`.
    let known: BTreeSet<String> = TABLE
        .iter()
        .map(|(operation, ..)| operation.split('?').next().unwrap().replace("{member}", "{user}"))
        .collect();
    let missing: Vec<_> = documented.difference(&known).collect();
    assert!(missing.is_empty(), "these are not in the table: {missing:?}");
    let superfluous: Vec<_> = known.difference(&documented).collect();
    assert!(
        superfluous.is_empty(),
        "these are not in the document: {superfluous:?}"
    );
}

#[tokio::test]
async fn clients_may_do_exactly_what_the_table_says() {
    let mut scene = Scene::new().await;
    let mut wrong = Vec::new();
    for &(operation, need, body) in TABLE {
        // These check the request and not the client, and answer 401 themselves when it is wrong.
        if [
            "post /api/auth/link",
            "post /api/auth/password",
            "post /api/auth/github",
        ]
        .contains(&operation)
        {
            continue;
        }
        let mut fixtures = scene.fixtures(operation).await;
        for who in ALL_CLIENTS {
            let expected = expected(need, who, operation);
            let client = scene.client(who, operation).await;
            let status = try_operation(&client, operation, body, &fixtures).await;
            let refusal = if [401, 403, 404].contains(&status) {
                status
            } else {
                0
            };
            if refusal != expected || status >= 500 {
                wrong.push(format!("{operation} by {who:?}: {status} instead of {expected}"));
            }
            if expected == 0 && operation.starts_with("delete ") {
                fixtures = scene.fixtures(operation).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
