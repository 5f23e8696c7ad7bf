//! `fsa user`, for owners of the system.

use fsa_model::{
    api::{Page, User},
    auth::ChangeUser,
    limits::Limits,
};
use reqwest::Method;

use crate::{
    args,
    client::{Client, encode},
    failure::{Code, Failure, Outcome},
    output,
};

pub async fn run(client: &Client, command: args::User, json: bool) -> Outcome {
    match command {
        args::User::List => {
            let all = all_users(client).await?;
            output::print_list(json, all, show);
        }
        args::User::Limit {
            user,
            projects,
            running,
            cpu_millis,
            memory_mib,
            disk_mib,
            requests_per_minute,
            execs_per_minute,
            default,
        } => {
            let limits = Limits {
                projects,
                running,
                cpu_millis,
                memory_mib,
                disk_mib,
                requests_per_minute,
                execs_per_minute,
            };
            let all = all_users(client).await?;
            let found = all.iter().find(|one| one.login == user).ok_or_else(|| {
                Failure::new(
                    Code::NotFound,
                    format!("user not found: {user}. `fsa user list` shows all users"),
                )
            })?;
            let request = ChangeUser {
                limits: Some((!default).then_some(limits)),
                ..ChangeUser::default()
            };
            let path = format!("/api/users/{}", encode(&found.id.to_string()));
            let changed: User = client.send(Method::PATCH, &path, &request).await?;
            output::print(json, &changed, |changed| show(std::slice::from_ref(changed)));
        }
    }
    Ok(0)
}

async fn all_users(client: &Client) -> Result<Vec<User>, Failure> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<User> = client.get(&format!("/api/users{cursor}")).await?;
        all.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("?cursor={}", encode(&next)),
            None => return Ok(all),
        }
    }
}

fn show(users: &[User]) {
    let usage = |used: u64, limit: Option<u64>| match limit {
        Some(limit) => format!("{used}/{limit}"),
        None => used.to_string(),
    };
    let a_minute = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| format!("{limit}/min"));
    output::table(
        &[
            "LOGIN",
            "PROJECTS",
            "RUNNING",
            "CPU (m)",
            "MEMORY (MiB)",
            "DISK (MiB)",
            "REQUESTS",
            "EXECS",
            "LIMITS",
        ],
        users.iter().map(|user| {
            let (used, limits) = (user.used, user.limits);
            vec![
                user.login.clone(),
                usage(used.projects, limits.projects),
                usage(used.running, limits.running),
                usage(used.cpu_millis, limits.cpu_millis),
                usage(used.memory_mib, limits.memory_mib),
                usage(used.disk_mib, limits.disk_mib),
                a_minute(limits.requests_per_minute),
                a_minute(limits.execs_per_minute),
                if user.own_limits { "own" } else { "the server's" }.into(),
            ]
        }),
    );
}
