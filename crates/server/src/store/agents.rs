//! Agents' credentials, usage and budgets, as rows.

use std::collections::BTreeMap;

use fsa_model::{ProjectId, SandboxId, UserId, VolumeId, llm_provider::Provider, money::Micros};
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::Store;
use crate::{error::Result, pricing::TokenUsage};

/// The credentials and budgets that decide a request of a sandbox's agent.
#[derive(Debug)]
pub struct Account {
    pub project: ProjectId,
    pub owner: UserId,
    /// Encrypted for [`super::associated_data::agent_credentials`].
    pub of_user: Option<Vec<u8>>,
    /// Encrypted for [`super::associated_data::project_environment`].
    pub of_project: Vec<u8>,
    /// Encrypted for [`super::associated_data::branch_environment`].
    pub of_branch: Option<Vec<u8>>,
    pub branch: VolumeId,
    /// Encrypted for [`super::associated_data::request_environment`].
    pub of_request: Vec<u8>,
    /// The budget per calendar month.
    pub budget: Option<Micros>,
    /// The amount spent in the current month.
    pub spent: Micros,
    /// The task whose process makes the request, where it belongs to this project and has not ended.
    pub task: Option<TaskAccount>,
}

/// A task's budget and the amount it has spent.
#[derive(Clone, Copy, Debug)]
pub struct TaskAccount {
    pub id: Uuid,
    pub budget: Option<Micros>,
    pub spent: Micros,
}

impl<'r> FromRow<'r, PgRow> for Account {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            project: ProjectId(row.try_get("project_id")?),
            owner: UserId(row.try_get("owner_id")?),
            of_user: row.try_get("of_user")?,
            of_project: row.try_get("of_project")?,
            of_branch: row.try_get("of_branch")?,
            branch: VolumeId(row.try_get("volume_id")?),
            of_request: row.try_get("of_request")?,
            budget: row.try_get::<Option<i64>, _>("budget")?.map(Micros),
            spent: Micros(row.try_get("spent")?),
            task: match row.try_get::<Option<Uuid>, _>("task")? {
                None => None,
                Some(id) => Some(TaskAccount {
                    id,
                    budget: row.try_get::<Option<i64>, _>("task_budget")?.map(Micros),
                    spent: Micros(row.try_get("task_spent")?),
                }),
            },
        })
    }
}

/// The account of a sandbox; `None` where its desired state is not running. `task` is what the sandbox reports, and
/// counts only where it is one of its project.
///
/// # Errors
/// The database does not answer.
pub async fn account(store: &Store, sandbox: SandboxId, task: Option<Uuid>) -> Result<Option<Account>> {
    Ok(sqlx::query_as(
        "select p.id as project_id, p.owner_id, c.variables as of_user, p.environment as of_project,
                b.environment as of_branch, b.volume_id,
                s.request_environment as of_request, p.agent_budget_micros as budget,
                (select coalesce(sum(u.cost_micros), 0)::bigint from agent_usage u
                 where u.project_id = p.id
                   and u.day >= date_trunc('month', now() at time zone 'utc')::date) as spent,
                t.id as task, t.budget_micros as task_budget, t.cost_micros as task_spent
         from sandboxes s
         join projects p on p.id = s.project_id
         join branches b on b.volume_id = s.volume_id
         left join agent_credentials c on c.user_id = p.owner_id
         left join tasks t on t.id = $2 and t.project_id = p.id and t.ended_at is null
         where s.id = $1 and s.desired_state = 'running' and p.deleted_at is null",
    )
    .bind(sandbox.0)
    .bind(task)
    .fetch_optional(&store.pool)
    .await?)
}

/// Adds the usage of one response to the project's total of today. Does nothing where the project is gone.
///
/// # Errors
/// The database does not answer.
pub async fn add_usage(
    store: &Store,
    project: ProjectId,
    task: Option<Uuid>,
    provider: Provider,
    counted: &TokenUsage,
    cost: Micros,
) -> Result<()> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    sqlx::query(
        "with of_task as (update tasks set cost_micros = cost_micros + $8 where id = $9 and project_id = $1)
         insert into agent_usage as u (project_id, day, provider, model, requests, input_tokens,
                                       output_tokens, cache_read_tokens, cache_write_tokens, cost_micros)
         select p.id, (now() at time zone 'utc')::date, $2, $3, 1, $4, $5, $6, $7, $8
         from projects p where p.id = $1
         on conflict (project_id, day, provider, model) do update set
             requests = u.requests + 1,
             input_tokens = u.input_tokens + excluded.input_tokens,
             output_tokens = u.output_tokens + excluded.output_tokens,
             cache_read_tokens = u.cache_read_tokens + excluded.cache_read_tokens,
             cache_write_tokens = u.cache_write_tokens + excluded.cache_write_tokens,
             cost_micros = u.cost_micros + excluded.cost_micros",
    )
    .bind(project.0)
    .bind(provider.as_str())
    .bind(counted.model.as_deref().unwrap_or("other"))
    .bind(number(counted.input))
    .bind(number(counted.output))
    .bind(number(counted.cache_read))
    .bind(number(counted.cache_write))
    .bind(cost.0)
    .bind(task)
    .execute(&store.pool)
    .await?;
    Ok(())
}

/// The usage of one model.
#[derive(Clone, Debug)]
pub struct ModelUsage {
    pub provider: String,
    pub model: String,
    pub requests: i64,
    pub tokens: BTreeMap<&'static str, i64>,
    pub cost: Micros,
}

/// The project's usage in this calendar month, by model.
///
/// # Errors
/// The database does not answer.
pub async fn this_month(store: &Store, project: ProjectId) -> Result<Vec<ModelUsage>> {
    let rows = sqlx::query(
        "select provider, model, sum(requests)::bigint as requests, sum(input_tokens)::bigint as input,
                sum(output_tokens)::bigint as output, sum(cache_read_tokens)::bigint as cache_read,
                sum(cache_write_tokens)::bigint as cache_write, sum(cost_micros)::bigint as cost
         from agent_usage
         where project_id = $1 and day >= date_trunc('month', now() at time zone 'utc')::date
         group by provider, model order by cost desc, provider, model limit 100",
    )
    .bind(project.0)
    .fetch_all(&store.pool)
    .await?;
    rows.iter()
        .map(|row| {
            let mut tokens = BTreeMap::new();
            for name in ["input", "output", "cache_read", "cache_write"] {
                tokens.insert(name, row.try_get(name)?);
            }
            Ok(ModelUsage {
                provider: row.try_get("provider")?,
                model: row.try_get("model")?,
                requests: row.try_get("requests")?,
                tokens,
                cost: Micros(row.try_get("cost")?),
            })
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(Into::into)
}

/// The project's own monthly budget.
///
/// # Errors
/// The database does not answer.
pub async fn budget(store: &Store, project: ProjectId) -> Result<Option<Micros>> {
    let budget: Option<i64> = sqlx::query_scalar("select agent_budget_micros from projects where id = $1")
        .bind(project.0)
        .fetch_one(&store.pool)
        .await?;
    Ok(budget.map(Micros))
}

/// Sets or removes the project's own monthly budget.
///
/// # Errors
/// The database does not answer.
pub async fn set_budget(tx: &mut PgConnection, project: ProjectId, budget: Option<Micros>) -> Result<()> {
    sqlx::query("update projects set agent_budget_micros = $2, updated_at = now() where id = $1")
        .bind(project.0)
        .bind(budget.map(|budget| budget.0))
        .execute(tx)
        .await?;
    Ok(())
}

/// A user's encrypted variables for agents ([`super::associated_data::agent_credentials`]).
///
/// # Errors
/// The database does not answer.
pub async fn credentials(connection: &mut PgConnection, user: UserId) -> Result<Option<Vec<u8>>> {
    Ok(
        sqlx::query_scalar("select variables from agent_credentials where user_id = $1")
            .bind(user.0)
            .fetch_optional(connection)
            .await?,
    )
}

/// Replaces a user's encrypted variables for agents.
///
/// # Errors
/// The database does not answer.
pub async fn set_credentials(tx: &mut PgConnection, user: UserId, encrypted: &[u8]) -> Result<()> {
    sqlx::query(
        "insert into agent_credentials (user_id, variables) values ($1, $2)
         on conflict (user_id) do update set variables = excluded.variables, updated_at = now()",
    )
    .bind(user.0)
    .bind(encrypted)
    .execute(tx)
    .await?;
    Ok(())
}
