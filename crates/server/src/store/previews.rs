//! Gateway look-ups of sandbox ports: the port behind a host name, who may see it, and how it is shared.

use std::collections::{BTreeMap, HashMap};

use fsa_model::{
    ProjectId, UserId,
    api::{HostHeader, Sharing},
    host::Host,
    sandboxd::TERMINAL_PORT,
    sharing::ProjectRole,
};
use sqlx::{FromRow as _, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Store, json_column,
    projects::{HostColumns, branch_of_host},
    sandboxes::{self, SandboxRow},
};
use crate::error::Result;

/// Access to a port of a project. Only ports of the main branch are open to others than members.
#[derive(Debug)]
pub struct PortAccess {
    pub project: ProjectId,
    pub port: u16,
    /// Users who may see the project, with their roles.
    pub people: HashMap<UserId, ProjectRole>,
    /// Their sessions that have not ended.
    pub sessions: Vec<Uuid>,
    pub sharing: Sharing,
    /// The hash of the access link that opens the port to guests.
    pub link: Option<[u8; 32]>,
    pub host_header: HostHeader,
    /// Paths that everyone may request.
    pub public_paths: Vec<String>,
}

/// Settings of a port of a project.
#[derive(Debug, Default)]
pub struct PortSettings {
    pub host_header: HostHeader,
    pub public_paths: Vec<String>,
}

/// A port of a project with the sandbox behind it.
#[derive(Debug)]
pub struct Preview {
    pub access: PortAccess,
    pub region: String,
    /// The branch's sandbox; `None` where it has none.
    pub sandbox: Option<SandboxRow>,
}

/// Users who may see the project `p`, with their roles, and their sessions that have not ended.
macro_rules! people {
    () => {
        "(select jsonb_object_agg(y.id, y.role) from (
              select p.owner_id as id, 'owner' as role
              union all
              select m.user_id, m.role from project_members m join users v on v.id = m.user_id
               where m.project_id = p.id and v.disabled_at is null and v.removed_at is null) y) as people,
         array(select e.id from sessions e where e.expires_at > now() and
               (e.user_id = p.owner_id or e.user_id in
                   (select m.user_id from project_members m where m.project_id = p.id))) as sessions, "
    };
}

/// The port that a host name leads to; `None` where there is no such project, or its owner is disabled.
///
/// # Errors
/// The database does not answer.
pub async fn by_host(store: &Store, host: &Host) -> Result<Option<Preview>> {
    let HostColumns {
        project,
        branch,
        owner,
        id,
    } = HostColumns::of(&host.target);
    let row = sqlx::query(concat!(
        "select p.id as project, p.region as region, x.sharing as sharing,
                x.link_hash as link, n.host_header as host_header,
                case when b.name = 'main' then n.public_paths end as public_paths,
                u.disabled_at is null and u.removed_at is null as allowed, ",
        people!(),
        sandboxes::columns!(),
        " from ",
        branch_of_host!(),
        " join projects p on p.id = h.project_id
          join branches b on b.volume_id = h.volume_id
          join users u on u.id = p.owner_id
          left join port_shares x on x.project_id = p.id and x.port = $5 and b.name = 'main'
          left join port_settings n on n.project_id = p.id and n.port = $5
          left join lateral (
              select * from sandboxes s where s.volume_id = b.volume_id
              order by s.desired_state = 'terminated', s.created_at desc limit 1) s on true"
    ))
    .bind(project)
    .bind(branch)
    .bind(owner)
    .bind(id)
    .bind(i32::from(host.port))
    .fetch_optional(&store.pool)
    .await?;
    match row.filter(|row| row.try_get("allowed").unwrap_or(false)) {
        Some(row) => preview(&row, host.port).map(Some),
        None => Ok(None),
    }
}

/// The port of this sandbox, unless the sandbox is terminated, its project deleted or the owner disabled.
///
/// # Errors
/// The database does not answer.
pub async fn by_sandbox(store: &Store, sandbox: Uuid, port: u16) -> Result<Option<Preview>> {
    let row = sqlx::query(concat!(
        "select p.id as project, p.region as region, x.sharing as sharing, x.link_hash as link,
                h.host_header as host_header,
                case when b.name = 'main' then h.public_paths end as public_paths, ",
        people!(),
        sandboxes::columns!(),
        " from sandboxes s
          join projects p on p.id = s.project_id
          join branches b on b.volume_id = s.volume_id
          join users u on u.id = p.owner_id
          left join port_shares x on x.project_id = p.id and x.port = $2 and b.name = 'main'
          left join port_settings h on h.project_id = p.id and h.port = $2
          where s.id = $1 and s.desired_state <> 'terminated' and p.deleted_at is null
            and u.disabled_at is null and u.removed_at is null"
    ))
    .bind(sandbox)
    .bind(i32::from(port))
    .fetch_optional(&store.pool)
    .await?;
    row.map(|row| preview(&row, port)).transpose()
}

fn preview(row: &PgRow, port: u16) -> Result<Preview> {
    Ok(Preview {
        access: PortAccess {
            project: ProjectId(row.try_get("project")?),
            port,
            people: json_column(row, "people")?,
            sessions: row.try_get("sessions")?,
            sharing: sharing(row, port)?,
            link: row
                .try_get::<Option<Vec<u8>>, _>("link")?
                .and_then(|link| link.try_into().ok()),
            host_header: host_header(row)?,
            // A terminal has no public path, whatever the table has.
            public_paths: match port {
                TERMINAL_PORT => Vec::new(),
                _ => row.try_get::<Option<_>, _>("public_paths")?.unwrap_or_default(),
            },
        },
        region: row.try_get("region")?,
        sandbox: match row.try_get::<Option<Uuid>, _>("s_id")? {
            Some(_) => Some(SandboxRow::from_row(row)?),
            None => None,
        },
    })
}

/// How the port is shared. A terminal is never open to guests, whatever the table has.
fn sharing(row: &PgRow, port: u16) -> Result<Sharing, sqlx::Error> {
    Ok(match row.try_get("sharing")? {
        _ if port == TERMINAL_PORT => Sharing::default(),
        Some("public") => Sharing::Public,
        Some("link") => Sharing::Link,
        _ => Sharing::default(),
    })
}

fn host_header(row: &PgRow) -> Result<HostHeader, sqlx::Error> {
    Ok(match row.try_get("host_header")? {
        Some("localhost") => HostHeader::Localhost,
        _ => HostHeader::Public,
    })
}

/// The ports of the project that have settings.
///
/// # Errors
/// The database does not answer.
pub async fn port_settings(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<BTreeMap<u16, PortSettings>> {
    let rows = sqlx::query("select port, host_header, public_paths from port_settings where project_id = $1")
        .bind(project.0)
        .fetch_all(connection)
        .await?;
    let mut ports = BTreeMap::new();
    for row in rows {
        if let Ok(port) = row.try_get::<i32, _>("port")?.try_into() {
            let settings = PortSettings {
                host_header: host_header(&row)?,
                public_paths: row.try_get("public_paths")?,
            };
            ports.insert(port, settings);
        }
    }
    Ok(ports)
}

/// Sets the settings of a port; a port with the defaults has no row.
///
/// # Errors
/// The database does not answer.
pub async fn set_port_settings(
    tx: &mut PgConnection,
    project: ProjectId,
    port: u16,
    settings: &PortSettings,
) -> Result<()> {
    let localhost = settings.host_header == HostHeader::Localhost;
    if !localhost && settings.public_paths.is_empty() {
        sqlx::query("delete from port_settings where project_id = $1 and port = $2")
            .bind(project.0)
            .bind(i32::from(port))
            .execute(tx)
            .await?;
        return Ok(());
    }
    sqlx::query(
        "insert into port_settings (project_id, port, host_header, public_paths) values ($1, $2, $3, $4)
         on conflict (project_id, port) do update
             set host_header = excluded.host_header, public_paths = excluded.public_paths",
    )
    .bind(project.0)
    .bind(i32::from(port))
    .bind(localhost.then_some("localhost"))
    .bind(&settings.public_paths)
    .execute(tx)
    .await?;
    Ok(())
}

/// The number of shared ports of the project, except this one.
///
/// # Errors
/// The database does not answer.
pub async fn other_shares(tx: &mut PgConnection, project: ProjectId, port: u16) -> Result<i64> {
    Ok(
        sqlx::query_scalar("select count(*) from port_shares where project_id = $1 and port <> $2")
            .bind(project.0)
            .bind(i32::from(port))
            .fetch_one(tx)
            .await?,
    )
}

/// Shares a port; an older access link no longer opens it.
///
/// # Errors
/// The database does not answer.
pub async fn share(
    tx: &mut PgConnection,
    project: ProjectId,
    port: u16,
    sharing: &str,
    link: Option<[u8; 32]>,
) -> Result<()> {
    sqlx::query(
        "insert into port_shares (project_id, port, sharing, link_hash) values ($1, $2, $3, $4)
         on conflict (project_id, port) do update set sharing = $3, link_hash = $4",
    )
    .bind(project.0)
    .bind(i32::from(port))
    .bind(sharing)
    .bind(link.map(|link| link.to_vec()))
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes a port private again.
///
/// # Errors
/// The database does not answer.
pub async fn unshare(tx: &mut PgConnection, project: ProjectId, port: u16) -> Result<()> {
    sqlx::query("delete from port_shares where project_id = $1 and port = $2")
        .bind(project.0)
        .bind(i32::from(port))
        .execute(tx)
        .await?;
    Ok(())
}
