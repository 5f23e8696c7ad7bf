//! `fsa share`, `fsa unshare` and `fsa members`.

use fsa_model::{
    api::Page,
    sharing::{Member, ProjectRole, ShareProject},
};
use reqwest::Method;

use crate::{
    client::{Client, encode},
    failure::Outcome,
    output,
};

pub async fn share(client: &Client, project: &str, user: &str, role: ProjectRole, json: bool) -> Outcome {
    let path = format!("{}/{}", of(project), encode(user));
    let members: Page<Member> = client.send(Method::PUT, &path, &ShareProject { role }).await?;
    show(&members, json);
    Ok(0)
}

pub async fn unshare(client: &Client, project: &str, user: &str) -> Outcome {
    let path = format!("{}/{}", of(project), encode(user));
    client.execute(Method::DELETE, &path, &()).await?;
    Ok(0)
}

pub async fn list(client: &Client, project: &str, json: bool) -> Outcome {
    let members: Page<Member> = client.get(&of(project)).await?;
    show(&members, json);
    Ok(0)
}

fn of(project: &str) -> String {
    format!("/api/projects/{}/members", encode(project))
}

fn show(members: &Page<Member>, json: bool) {
    output::print(json, members, |members| {
        output::table(
            &["LOGIN", "ROLE", "SINCE"],
            members.items.iter().map(|member| {
                vec![
                    member.login.clone(),
                    member.role.to_string(),
                    format!("{} ago", output::age(member.since)),
                ]
            }),
        );
    });
}
