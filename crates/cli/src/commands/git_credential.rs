//! `fsa git-credential`: the credential of a project's repository, which stays outside of its sandbox.

use fsa_model::agent_api::{GitCredential, SetGitCredential};
use reqwest::Method;

use crate::{
    args,
    client::{Client, encode},
    failure::Outcome,
    input, output,
};

pub async fn run(client: &Client, command: args::GitCredential, json: bool) -> Outcome {
    let path = |project: &str| format!("/api/projects/{}/git-credential", encode(project));
    match command {
        args::GitCredential::Set {
            project,
            url,
            username,
        } => {
            let set = SetGitCredential {
                url,
                username,
                password: input::secret("Password or token: ")?.into(),
            };
            let credential: GitCredential = client.send(Method::PUT, &path(&project), &set).await?;
            output::print(json, &credential, |credential| {
                output::line(&format!(
                    "git signs in to {} as {}",
                    credential.url, credential.username
                ));
            });
        }
        args::GitCredential::Show { project } => {
            let credential: GitCredential = client.get(&path(&project)).await?;
            output::print(json, &credential, |credential| {
                output::line(&format!("{}  {}", credential.url, credential.username));
            });
        }
        args::GitCredential::Forget { project } => {
            client.execute(Method::DELETE, &path(&project), &()).await?;
        }
    }
    Ok(0)
}
