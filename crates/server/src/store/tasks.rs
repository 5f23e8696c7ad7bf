//! Tasks, as rows: their order, leases, and progress.

use std::time::Duration;

use chrono::{DateTime, Utc};
use fsa_model::{
    BranchName, ProjectId, SandboxId, UserId, VolumeId,
    agent::Agent,
    money::Micros,
    task::{StepKind, Task, TaskState, TaskStep},
};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{Store, enum_column, enum_text, json_column, parsed_column, projects, projects::ProjectRow};
use crate::error::{Error, Result};

/// A task, with fields that only its runner needs.
#[derive(Clone, Debug)]
pub struct TaskRow {
    pub task: Task,
    /// The branch in whose sandbox it runs.
    pub branch: VolumeId,
    pub sandbox: Option<SandboxId>,
    pub position: i64,
    pub session: Option<String>,
    pub reported_failed: bool,
    pub cancelled: bool,
    /// The project's files when the task began, as a git tree of its repository.
    pub start_tree: Option<String>,
}

/// A task claimed by this process.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    pub row: TaskRow,
    pub project: ProjectRow,
    pub lease: Uuid,
}

macro_rules! columns {
    () => {
        "t.id as t_id, t.project_id as t_project_id, t.agent as t_agent, t.prompt as t_prompt, \
         t.model as t_model, t.budget_micros as t_budget, t.timeout_seconds as t_timeout, \
         t.continues as t_continues, t.created_at as t_created_at, t.cancelled_at as t_cancelled_at, \
         t.state as t_state, t.volume_id as t_volume_id, t.sandbox_id as t_sandbox_id, t.position as t_position, t.steps as t_steps, \
         t.session as t_session, t.result as t_result, t.reported_failed as t_reported_failed, \
         greatest(t.cost_micros, case when t.cost_micros = 0 then t.reported_cost else 0 end) as t_cost, \
         t.exit_code as t_exit_code, t.error as t_error, t.changed_files as t_changed_files, \
         t.started_at as t_started_at, t.ended_at as t_ended_at, t.start_tree as t_start_tree, \
         (select b.name from branches b where b.volume_id = t.volume_id) as t_branch"
    };
}

impl<'r> FromRow<'r, PgRow> for TaskRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let task = Task {
            id: row.try_get("t_id")?,
            project_id: ProjectId(row.try_get("t_project_id")?),
            branch: parsed_column(row, "t_branch")?,
            agent: enum_column(row, "t_agent")?,
            prompt: row.try_get("t_prompt")?,
            model: row.try_get("t_model")?,
            budget: row.try_get::<Option<i64>, _>("t_budget")?.map(Micros),
            timeout_seconds: row.try_get::<i32, _>("t_timeout")?.unsigned_abs(),
            continues: row.try_get("t_continues")?,
            state: enum_column(row, "t_state")?,
            error: row.try_get("t_error")?,
            exit_code: row.try_get("t_exit_code")?,
            result: row.try_get("t_result")?,
            cost: Micros(row.try_get("t_cost")?),
            changed_files: json_column(row, "t_changed_files")?,
            steps: row.try_get("t_steps")?,
            created_at: row.try_get("t_created_at")?,
            started_at: row.try_get("t_started_at")?,
            ended_at: row.try_get("t_ended_at")?,
        };
        Ok(Self {
            task,
            branch: VolumeId(row.try_get("t_volume_id")?),
            sandbox: row.try_get::<Option<Uuid>, _>("t_sandbox_id")?.map(SandboxId),
            position: row.try_get("t_position")?,
            session: row.try_get("t_session")?,
            reported_failed: row.try_get("t_reported_failed")?,
            cancelled: row
                .try_get::<Option<DateTime<Utc>>, _>("t_cancelled_at")?
                .is_some(),
            start_tree: row.try_get("t_start_tree")?,
        })
    }
}

impl<'r> FromRow<'r, PgRow> for ClaimedTask {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            row: TaskRow::from_row(row)?,
            project: ProjectRow::from_row(row)?,
            lease: row.try_get("lease_id")?,
        })
    }
}

/// A new task.
pub struct NewTask<'a> {
    pub id: Uuid,
    pub project: ProjectId,
    pub branch: VolumeId,
    pub by: UserId,
    pub agent: Agent,
    pub prompt: &'a str,
    pub model: Option<&'a str>,
    pub budget: Option<Micros>,
    pub timeout_seconds: u32,
    pub continues: Option<Uuid>,
}

/// Inserts a new task, which waits until earlier ones end.
///
/// # Errors
/// The database does not answer.
pub async fn insert(tx: &mut PgConnection, new: NewTask<'_>) -> Result<()> {
    sqlx::query(
        "insert into tasks (id, project_id, created_by, agent, prompt, model, budget_micros,
                            timeout_seconds, continues, volume_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(new.id)
    .bind(new.project.0)
    .bind(new.by.0)
    .bind(new.agent.name())
    .bind(new.prompt)
    .bind(new.model)
    .bind(new.budget.map(|budget| budget.0))
    .bind(i32::try_from(new.timeout_seconds).unwrap_or(i32::MAX))
    .bind(new.continues)
    .bind(new.branch.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The number of the project's tasks that have not ended.
///
/// # Errors
/// The database does not answer.
pub async fn count_unfinished(tx: &mut PgConnection, project: ProjectId) -> Result<i64> {
    Ok(
        sqlx::query_scalar("select count(*) from tasks where project_id = $1 and ended_at is null")
            .bind(project.0)
            .fetch_one(tx)
            .await?,
    )
}

/// A task of this project.
///
/// # Errors
/// Not found; the database does not answer.
pub async fn find(store: &Store, project: ProjectId, task: Uuid) -> Result<TaskRow> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from tasks t where t.project_id = $1 and t.id = $2"
    ))
    .bind(project.0)
    .bind(task)
    .fetch_optional(&store.pool)
    .await?
    .ok_or_else(|| Error::not_found("task"))
}

/// The project's tasks, the newest first; only those of `branch`, and those before `before`, where they are given.
///
/// # Errors
/// The database does not answer.
pub async fn list(
    store: &Store,
    project: ProjectId,
    branch: Option<&BranchName>,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Task>> {
    let rows: Vec<TaskRow> = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from tasks t where t.project_id = $1
            and ($4::text is null or t.volume_id in
                (select b.volume_id from branches b where b.project_id = $1 and b.name = $4))
            and ($2::uuid is null or (t.created_at, t.id) <
            (select b.created_at, b.id from tasks b where b.id = $2 and b.project_id = $1))
          order by t.created_at desc, t.id desc limit $3"
    ))
    .bind(project.0)
    .bind(before)
    .bind(limit)
    .bind(branch.map(BranchName::as_str))
    .fetch_all(&store.pool)
    .await?;
    Ok(rows.into_iter().map(|row| row.task).collect())
}

/// Requests the cancellation of a task. A waiting task ends at once; false where it had ended already.
///
/// # Errors
/// The database does not answer.
pub async fn cancel(tx: &mut PgConnection, task: Uuid) -> Result<bool> {
    let done = sqlx::query(
        "update tasks set cancelled_at = coalesce(cancelled_at, now()),
                state = case when state = 'queued' then 'cancelled' else state end,
                ended_at = case when state = 'queued' then now() end
         where id = $1 and ended_at is null",
    )
    .bind(task)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Steps after `sequence`, in order.
///
/// # Errors
/// The database does not answer.
pub async fn steps(store: &Store, task: Uuid, after: i64, limit: i64) -> Result<Vec<TaskStep>> {
    let rows = sqlx::query(
        "select sequence, at, kind, data from task_steps
         where task_id = $1 and sequence > $2 order by sequence limit $3",
    )
    .bind(task)
    .bind(after)
    .bind(limit)
    .fetch_all(&store.pool)
    .await?;
    let read = |row: &PgRow| {
        Ok(TaskStep {
            sequence: row.try_get("sequence")?,
            at: row.try_get("at")?,
            kind: enum_column(row, "kind")?,
            data: json_column(row, "data")?,
        })
    };
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

/// Claims at most `limit` tasks that are the first open one of their branch and that no live process runs.
///
/// # Errors
/// The database does not answer.
pub async fn claim(store: &Store, limit: i64, lease: Duration) -> Result<Vec<ClaimedTask>> {
    Ok(sqlx::query_as(concat!(
        "with due as (
             select o.id from tasks o join projects q on q.id = o.project_id
             where o.ended_at is null and q.deleted_at is null
               and (o.lease_until is null or o.lease_until < now())
               and not exists (select 1 from tasks e where e.volume_id = o.volume_id
                   and e.ended_at is null and (e.created_at, e.id) < (o.created_at, o.id))
             order by o.created_at limit $1 for update of o skip locked),
         t as (
             update tasks set lease_id = gen_random_uuid(), lease_until = now() + make_interval(secs => $2)
             from due where tasks.id = due.id returning tasks.*)
         select t.lease_id, ",
        columns!(),
        ", ",
        projects::columns!(),
        " from t join projects p on p.id = t.project_id"
    ))
    .bind(limit)
    .bind(lease.as_secs_f64())
    .fetch_all(&store.pool)
    .await?)
}

/// Releases all task leases. Only where the processes that held them are certainly dead.
///
/// # Errors
/// The database does not answer.
pub async fn release_all_leases(store: &Store) -> Result<()> {
    sqlx::query("update tasks set lease_id = null, lease_until = null where ended_at is null")
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// Releases a task, so that another process can claim it at once.
///
/// # Errors
/// The database does not answer.
pub async fn release(store: &Store, task: Uuid, lease: Uuid) -> Result<()> {
    sqlx::query("update tasks set lease_id = null, lease_until = null where id = $1 and lease_id = $2")
        .bind(task)
        .bind(lease)
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// Whether the lease still held, and whether cancellation was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    Held { cancelled: bool },
    Lost,
}

fn lease_state(row: Option<PgRow>) -> Result<LeaseState> {
    match row {
        Some(row) => Ok(LeaseState::Held {
            cancelled: row.try_get(0)?,
        }),
        None => Ok(LeaseState::Lost),
    }
}

/// Renews the lease.
///
/// # Errors
/// The database does not answer.
pub async fn renew(store: &Store, task: Uuid, lease: Uuid, duration: Duration) -> Result<LeaseState> {
    lease_state(
        sqlx::query(
            "update tasks set lease_until = now() + make_interval(secs => $3)
             where id = $1 and lease_id = $2 and ended_at is null returning cancelled_at is not null",
        )
        .bind(task)
        .bind(lease)
        .bind(duration.as_secs_f64())
        .fetch_optional(&store.pool)
        .await?,
    )
}

/// Stores the project's files before the task begins.
///
/// # Errors
/// The database does not answer.
pub async fn set_start_tree(store: &Store, task: Uuid, lease: Uuid, tree: &str) -> Result<()> {
    sqlx::query("update tasks set start_tree = $3 where id = $1 and lease_id = $2 and ended_at is null")
        .bind(task)
        .bind(lease)
        .bind(tree)
        .execute(&store.pool)
        .await?;
    Ok(())
}

/// The changes that the agent made, and whether they were cut.
///
/// # Errors
/// The database does not answer.
pub async fn diff(store: &Store, task: Uuid) -> Result<(Option<String>, bool)> {
    let row = sqlx::query("select diff, diff_cut from tasks where id = $1")
        .bind(task)
        .fetch_one(&store.pool)
        .await?;
    Ok((row.try_get("diff")?, row.try_get("diff_cut")?))
}

/// Marks the task as running in this sandbox.
///
/// # Errors
/// The database does not answer.
pub async fn mark_running(store: &Store, task: Uuid, lease: Uuid, sandbox: SandboxId) -> Result<LeaseState> {
    lease_state(
        sqlx::query(
            "update tasks set state = 'running', sandbox_id = $3, started_at = coalesce(started_at, now())
             where id = $1 and lease_id = $2 and ended_at is null returning cancelled_at is not null",
        )
        .bind(task)
        .bind(lease)
        .bind(sandbox.0)
        .fetch_optional(&store.pool)
        .await?,
    )
}

/// The progress of a task from one piece of an agent's output.
#[derive(Debug)]
pub struct TaskProgress<'a> {
    /// The position after this output.
    pub position: i64,
    pub steps: &'a [(StepKind, serde_json::Value)],
    pub session: Option<&'a str>,
    pub result: Option<&'a str>,
    pub failed: bool,
    pub cost: Option<Micros>,
}

/// Writes progress and the position after it atomically, so that a process that takes over continues exactly there.
///
/// # Errors
/// The database does not answer.
pub async fn record(
    store: &Store,
    task: Uuid,
    lease: Uuid,
    progress: &TaskProgress<'_>,
    duration: Duration,
) -> Result<LeaseState> {
    let (kinds, data): (Vec<String>, Vec<Json<&serde_json::Value>>) = progress
        .steps
        .iter()
        .map(|(kind, data)| (enum_text(kind), Json(data)))
        .unzip();
    lease_state(
        sqlx::query(
            "with before as (
                 select id, steps from tasks where id = $1 and lease_id = $2 and ended_at is null for update),
             written as (
                 insert into task_steps (task_id, sequence, kind, data)
                 select b.id, b.steps + e.place, e.kind, e.data
                 from before b, unnest($5::text[], $6::jsonb[]) with ordinality as e(kind, data, place))
             update tasks t set lease_until = now() + make_interval(secs => $3), position = $4,
                 steps = b.steps + cardinality($5), session = coalesce($7, session),
                 result = coalesce($8, result), reported_failed = reported_failed or $9,
                 reported_cost = coalesce($10, reported_cost)
             from before b where t.id = b.id returning t.cancelled_at is not null",
        )
        .bind(task)
        .bind(lease)
        .bind(duration.as_secs_f64())
        .bind(progress.position)
        .bind(kinds)
        .bind(data)
        .bind(progress.session)
        .bind(progress.result)
        .bind(progress.failed)
        .bind(progress.cost.map(|cost| cost.0))
        .fetch_optional(&store.pool)
        .await?,
    )
}

/// The result of a task.
#[derive(Clone, Debug)]
pub struct TaskResult {
    pub state: TaskState,
    pub exit_code: Option<i32>,
    pub error: Option<String>,
    pub changed_files: Vec<String>,
    /// The changes that the agent made, and whether they were cut.
    pub diff: Option<(String, bool)>,
}

/// Writes the result. False where the lease was lost.
///
/// # Errors
/// The database does not answer.
pub async fn end(tx: &mut PgConnection, task: Uuid, lease: Uuid, result: &TaskResult) -> Result<bool> {
    let done = sqlx::query(
        "update tasks set state = $3, exit_code = $4, error = $5, changed_files = $6, diff = $7, diff_cut = $8,
                ended_at = now(), lease_id = null, lease_until = null
         where id = $1 and lease_id = $2 and ended_at is null",
    )
    .bind(task)
    .bind(lease)
    .bind(enum_text(&result.state))
    .bind(result.exit_code)
    .bind(&result.error)
    .bind(Json(&result.changed_files))
    .bind(result.diff.as_ref().map(|(diff, _)| diff))
    .bind(result.diff.as_ref().is_some_and(|(_, cut)| *cut))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() > 0)
}
