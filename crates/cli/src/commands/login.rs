//! `fsa login`: exchanges a link, a token or a password for a token in the credentials file.

use std::io::IsTerminal as _;

use fsa_model::api::{ApiToken, CreateToken, User};
use reqwest::{Method, Response, header};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::{
    args::Login,
    client::{self, Client},
    credentials,
    failure::{Code, Failure, Outcome},
    input, output,
};

pub async fn run(login: Login, url: Option<&str>, json: bool) -> Outcome {
    let given = login.url.as_deref().or(url).unwrap_or(credentials::DEFAULT_URL);
    let parsed = Url::parse(&credentials::with_scheme(given))
        .map_err(|_| Failure::usage(format!("{given:?} is not a URL of the form http://host[:port]")))?;
    let origin = parsed.origin().ascii_serialization();
    let token = if login.with_token {
        SecretString::from(input::prompt_line("API token: ")?)
    } else if let Some(link) = parsed.fragment() {
        from_link(&origin, link).await?
    } else if let Some(user) = &login.user {
        let password = SecretString::from(input::prompt_hidden("Password: ")?);
        let body = serde_json::json!({"login": user, "password": password.expose_secret()});
        from_session(&origin, "/api/auth/password", &body).await?
    } else if std::io::stdin().is_terminal() {
        let secret = SecretString::from(input::prompt_hidden("Sign-in link or API token: ")?);
        match secret.expose_secret().split_once('#') {
            Some((_, link)) => from_link(&origin, link).await?,
            None => secret,
        }
    } else {
        return Err(Failure::usage(
            "choose how to sign in: the link that the server printed (fsa login 'http://…/sign-in#…'), --with-token, or \
             --user NAME",
        ));
    };
    let client = Client::with_token(origin.clone(), Some(token.clone()))?;
    let me: User = client.get("/api/me").await?;
    let path = credentials::save(&origin, &token)?;
    output::print(json, &me, |me| {
        output::line(&format!(
            "Signed in to {origin} as {} ({}).",
            me.login,
            path.display()
        ));
    });
    Ok(0)
}

async fn from_link(origin: &str, link: &str) -> Result<SecretString, Failure> {
    from_session(origin, "/api/auth/link", &serde_json::json!({"token": link})).await
}

/// Signs in, creates a token with the session, and ends the session.
async fn from_session(origin: &str, path: &str, body: &serde_json::Value) -> Result<SecretString, Failure> {
    let client = Client::with_token(origin.to_owned(), None)?;
    let request = |method, path| client.request(method, path).header(header::ORIGIN, origin);
    let response = client::checked(request(Method::POST, path).json(body)).await?;
    let cookie = cookies(&response).ok_or_else(|| {
        Failure::new(
            Code::NotAllowed,
            "the server set no session cookie; request a new link",
        )
    })?;
    let create = CreateToken {
        name: token_name(),
        sign_in: true,
        ..CreateToken::default()
    };
    let made = client::checked(
        request(Method::POST, "/api/tokens")
            .header(header::COOKIE, &cookie)
            .json(&create),
    )
    .await?;
    let made: ApiToken = serde_json::from_slice(&made.bytes().await?)
        .map_err(|error| Failure::failed(format!("the server's answer cannot be read: {error}")))?;
    let _ =
        client::checked(request(Method::POST, "/api/auth/sign-out").header(header::COOKIE, &cookie)).await;
    made.token
        .map(SecretString::from)
        .ok_or_else(|| Failure::failed("the server created a token and did not return it"))
}

fn cookies(response: &Response) -> Option<String> {
    let pairs: Vec<&str> = response
        .headers()
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok()?.split(';').next())
        .collect();
    (!pairs.is_empty()).then(|| pairs.join("; "))
}

fn token_name() -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    format!("fsa on {}", host.as_deref().unwrap_or("an unnamed machine"))
}
