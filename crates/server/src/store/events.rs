//! Event log of projects, append-only.

use fsa_model::{
    BranchName, EventId, ProjectId, SandboxId, UserId,
    event::{Event, EventKind},
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};

use super::{
    Store, caller::Caller, enum_column, enum_text, json_column, parsed_column, projects::ProjectRow,
};
use crate::error::Result;

/// An event to be written.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub owner: UserId,
    pub project: ProjectId,
    pub sandbox: Option<SandboxId>,
    /// The branch, where the sandbox does not name it.
    pub branch: Option<BranchName>,
    pub kind: EventKind,
    /// A sentence for people, without secrets.
    pub message: String,
    pub data: serde_json::Value,
    /// Users who lose access to the project by this event, and are notified of it.
    pub lost_by: Vec<UserId>,
}

impl NewEvent {
    #[must_use]
    pub fn new(project: &ProjectRow, kind: EventKind, message: impl Into<String>) -> Self {
        Self {
            owner: project.owner,
            project: project.id,
            sandbox: None,
            branch: None,
            kind,
            message: message.into(),
            data: serde_json::json!({}),
            lost_by: Vec::new(),
        }
    }

    #[must_use]
    pub fn lost_by(mut self, user: UserId) -> Self {
        self.lost_by.push(user);
        self
    }

    #[must_use]
    pub fn of(mut self, sandbox: SandboxId) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    #[must_use]
    pub fn in_branch(mut self, branch: &BranchName) -> Self {
        self.branch = Some(branch.clone());
        self
    }

    #[must_use]
    pub fn with(mut self, data: serde_json::Value) -> Self {
        self.data = data;
        self
    }
}

/// An event without project and sandbox ids. The row that it is written with supplies them.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingEvent {
    pub kind: EventKind,
    pub message: String,
    pub data: serde_json::Value,
}

impl PendingEvent {
    #[must_use]
    pub fn new(kind: EventKind, message: impl Into<String>, data: serde_json::Value) -> Self {
        Self {
            kind,
            message: message.into(),
            data,
        }
    }
}

/// Appends an event and returns its id. From here to the commit, no other transaction can append an event of the same
/// owner (so that ids become visible in their order): append as late as possible.
///
/// # Errors
/// The database does not answer.
pub async fn append(tx: &mut PgConnection, event: NewEvent) -> Result<EventId, sqlx::Error> {
    sqlx::query_scalar(
        "insert into events (owner_id, project_id, sandbox_id, kind, message, data, lost_by, branch)
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning id",
    )
    .bind(event.owner.0)
    .bind(event.project.0)
    .bind(event.sandbox.map(|id| id.0))
    .bind(enum_text(&event.kind))
    .bind(event.message)
    .bind(event.data)
    .bind(event.lost_by.iter().map(|user| user.0).collect::<Vec<_>>())
    .bind(event.branch.as_ref().map(BranchName::as_str))
    .fetch_one(tx)
    .await
}

/// The scope of the events to read.
#[derive(Clone, Copy, Debug)]
pub enum EventScope {
    Project(ProjectId),
    /// All projects that a user owns, also deleted ones, and those shared with the user. A share that ended
    /// adds only the event of its end.
    Reader(UserId),
}

impl EventScope {
    /// All projects that the caller owns or that are shared with them.
    #[must_use]
    pub fn caller(caller: &Caller) -> Self {
        Self::Reader(caller.user())
    }

    /// One project.
    #[must_use]
    pub fn project(project: &ProjectRow) -> Self {
        Self::Project(project.id)
    }
}

struct Row(Event);

impl<'r> FromRow<'r, PgRow> for Row {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self(Event {
            id: row.try_get("id")?,
            project_id: ProjectId(row.try_get("project_id")?),
            sandbox_id: row.try_get::<Option<uuid::Uuid>, _>("sandbox_id")?.map(SandboxId),
            branch: match row.try_get::<Option<&str>, _>("branch")? {
                Some(_) => Some(parsed_column(row, "branch")?),
                None => None,
            },
            kind: enum_column(row, "kind")?,
            message: row.try_get("message")?,
            data: json_column(row, "data")?,
            created_at: row.try_get("created_at")?,
        }))
    }
}

/// The events after the id `after`, oldest first; only those of `branch` where it is given.
///
/// # Errors
/// The database does not answer.
pub async fn after(
    store: &Store,
    scope: EventScope,
    branch: Option<&BranchName>,
    after: EventId,
    limit: i64,
) -> Result<Vec<Event>> {
    let query = match scope {
        EventScope::Project(project) => sqlx::query_as(
            "select id, project_id, sandbox_id, branch, kind, message, data, created_at from events
             where project_id = $1 and id > $2 and ($4::text is null or branch = $4) order by id limit $3",
        )
        .bind(project.0),
        EventScope::Reader(reader) => sqlx::query_as(
            "select id, project_id, sandbox_id, branch, kind, message, data, created_at from (
                 (select id, project_id, sandbox_id, branch, kind, message, data, created_at
                    from events where owner_id = $1 and id > $2
                      and ($4::text is null or branch = $4) order by id limit $3)
                 union all
                 (select id, project_id, sandbox_id, branch, kind, message, data, created_at
                    from events where id > $2 and project_id in
                      (select m.project_id from project_members m where m.user_id = $1)
                      and ($4::text is null or branch = $4) order by id limit $3)
                 union all
                 (select id, project_id, null, null, 'shareEnded', 'A project is no longer shared with you.', '{}',
                         created_at
                    from events e
                   where lost_by <> '{}' and lost_by @> array[$1] and id > $2 and $4::text is null and not exists
                      (select 1 from project_members m where m.user_id = $1 and m.project_id = e.project_id)
                   order by id limit $3)
             ) e order by id limit $3",
        )
        .bind(reader.0),
    };
    let rows: Vec<Row> = query
        .bind(after)
        .bind(limit)
        .bind(branch.map(BranchName::as_str))
        .fetch_all(&store.pool)
        .await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

/// The id of the last event; 0 where there is none.
///
/// # Errors
/// The database does not answer.
pub async fn last(store: &Store, scope: EventScope) -> Result<EventId> {
    let query = match scope {
        EventScope::Project(project) => {
            sqlx::query_scalar("select coalesce(max(id), 0) from events where project_id = $1")
                .bind(project.0)
        }
        // One index scan for the user's own projects and one for each shared project.
        EventScope::Reader(reader) => sqlx::query_scalar(
            "select greatest(0, (select max(id) from events where owner_id = $1),
                 (select max(id) from events where lost_by <> '{}' and lost_by @> array[$1]),
                 (select max(newest) from project_members m,
                      lateral (select max(id) as newest from events where project_id = m.project_id) e
                   where m.user_id = $1))",
        )
        .bind(reader.0),
    };
    Ok(query.fetch_one(&store.pool).await?)
}
