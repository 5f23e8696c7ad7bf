//! `fsa token`.

use chrono::{Duration, Utc};
use fsa_model::api::{ApiToken, CreateToken, Page, Scope};
use reqwest::Method;

use crate::{args::Token, client::Client, failure::Outcome, output};

pub async fn run(client: &Client, command: Token, json: bool) -> Outcome {
    match command {
        Token::Create {
            name,
            days,
            never,
            read_only,
            admin,
            project,
        } => {
            let expires_at = days.map(|days| Utc::now() + Duration::days(i64::from(days)));
            let request = CreateToken {
                name,
                expires_at,
                never_expires: never,
                scope: match (read_only, admin) {
                    (true, _) => Scope::Read,
                    (false, true) => Scope::Admin,
                    (false, false) => Scope::Write,
                },
                sign_in: false,
                project,
            };
            let made: ApiToken = client.send(Method::POST, "/api/tokens", &request).await?;
            output::print(json, &made, |made| {
                output::line(made.token.as_deref().unwrap_or_default())
            });
        }
        Token::List => {
            let tokens: Page<ApiToken> = client.get("/api/tokens").await?;
            output::print(json, &tokens, |tokens| {
                output::table(
                    &["ID", "NAME", "SCOPE", "PROJECT", "CREATED", "USED", "EXPIRES"],
                    tokens.items.iter().map(|token| {
                        vec![
                            token.id.to_string(),
                            token.name.clone(),
                            match token.scope {
                                Scope::Read => "read".into(),
                                Scope::Write => "write".into(),
                                Scope::Admin => "admin".into(),
                            },
                            token
                                .project_id
                                .map_or("all".into(), |project| project.to_string()),
                            format!("{} ago", output::age(token.created_at)),
                            token
                                .last_used_at
                                .map_or("never".into(), |at| format!("{} ago", output::age(at))),
                            token
                                .expires_at
                                .map_or("never".into(), |at| at.format("%F").to_string()),
                        ]
                    }),
                );
            });
        }
        Token::Revoke { id } => {
            client
                .execute(
                    Method::DELETE,
                    &format!("/api/tokens/{}", crate::client::encode(&id)),
                    &(),
                )
                .await?;
        }
    }
    Ok(0)
}
