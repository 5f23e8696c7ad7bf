//! GitHub sign-in, and linking a GitHub account to a user.
//!
//! A cookie binds a sign-in to the browser that began it, `state` binds it to our request, and PKCE binds it to this
//! server. GitHub's number alone identifies an account, never the login or e-mail address.

use std::time::Duration;

use fsa_model::{ProjectName, api::Role};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use url::Url;

use crate::{
    auth::{
        Address, Caller, CredentialId, secret,
        sign_in::{self, ClientInfo, SignedIn},
    },
    core::Core,
    error::{Error, Result},
    github_client::{Account, Github},
    store::{Transaction, audit, github, sessions, users},
};

/// How long a sign-in may take at GitHub's page.
pub const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Path of the redirect URI on the main host.
pub const CALLBACK: &str = "/api/auth/github/callback";

/// A sign-in that has begun.
pub struct StartedSignIn {
    pub url: Url,
    /// The value of the cookie that this browser must bring params.
    pub browser: SecretString,
}

/// Query parameters of the redirect from GitHub.
pub struct CallbackParams {
    pub code: String,
    pub state: String,
    pub browser: Option<String>,
}

/// The outcome of a sign-in.
pub enum SignInOutcome {
    SignedIn(SignedIn),
    Linked,
}

/// The configured GitHub server.
///
/// # Errors
/// 409 where there is none.
pub(super) fn configured_github(core: &Core) -> Result<&Github> {
    core.github
        .as_ref()
        .ok_or_else(|| Error::conflict("Signing in with GitHub is not set up on this server."))
}

fn callback(core: &Core) -> Url {
    let mut url = core.settings.origin.clone();
    url.set_path(CALLBACK);
    url
}

/// Begins a sign-in, or the linking of an account to `link_to`.
///
/// # Errors
/// 409 where GitHub is not set up; 429 after too many attempts.
pub async fn begin(core: &Core, link_to: Option<&Caller>, address: Address) -> Result<StartedSignIn> {
    let client = configured_github(core)?;
    core.login_throttle.count_address(address)?;
    let authorization = client.authorization_request(callback(core));
    let browser = secret::random();
    github::begin(
        &core.store,
        &core.key_ring,
        &secret::hash(authorization.state.expose_secret()),
        &secret::hash(browser.expose_secret()),
        &authorization.verifier,
        link_to.map(Caller::user),
        LIFETIME,
    )
    .await?;
    Ok(StartedSignIn {
        url: authorization.url,
        browser,
    })
}

/// Finishes a sign-in that [`begin`] began.
///
/// # Errors
/// 403 where this browser did not begin it, it was used or is too old, GitHub refuses the code, or
/// the account may not join; 409 where the account is linked to another user.
pub async fn finish(
    core: &Core,
    params: CallbackParams,
    caller: Option<&Caller>,
    from: &ClientInfo<'_>,
) -> Result<SignInOutcome> {
    let client = configured_github(core)?;
    core.login_throttle.count_address(from.address)?;
    let invalid_state = || {
        Error::forbidden(
            "This sign-in was not begun in this browser, was used already, or is too old. Begin it again.",
        )
    };
    let browser = params.browser.ok_or_else(invalid_state)?;
    let pending = github::take(&core.store, &core.key_ring, &secret::hash(&params.state))
        .await?
        .ok_or_else(invalid_state)?;
    if !bool::from(secret::hash(&browser).ct_eq(&pending.browser_hash)) {
        return Err(invalid_state());
    }
    if pending.link_to.is_some() && pending.link_to != caller.map(Caller::user) {
        return Err(Error::forbidden(
            "Another user has signed in since the linking began. Begin it again.",
        ));
    }
    let grant = client
        .exchange(callback(core), params.code, &pending.verifier)
        .await?;
    let account = client.account(&grant.token).await?;
    let mut tx = core.store.begin().await?;
    if let (Some(user), Some(caller)) = (pending.link_to, caller) {
        github::link(&mut tx, &core.key_ring, user, account.id, &account.login, &grant).await?;
        audit::record(&mut tx, caller, "github.link", object(&account)).await?;
        tx.commit().await?;
        return Ok(SignInOutcome::Linked);
    }
    let user = match github::user_of(&mut tx, account.id).await? {
        Some(user) => user,
        None => {
            check_may_join(client, &account, &grant.token).await?;
            let login = free_login(&mut tx, &account).await?;
            users::insert(&mut tx, &login, Role::Member, None).await?
        }
    };
    github::link(&mut tx, &core.key_ring, user, account.id, &account.login, &grant).await?;
    // The browser's previous session ends; it does not belong to the new sign-in.
    if let Some(caller) = caller
        && let CredentialId::Session(old) = caller.credential()
    {
        sessions::end(&mut tx, caller, old).await?;
    }
    let signed_in = sign_in::sign_in(&mut tx, user, "github", from).await?;
    tx.commit().await?;
    if let Some(caller) = caller {
        sign_in::invalidate(core, caller.user());
    }
    Ok(SignInOutcome::SignedIn(signed_in))
}

/// Unlinks the caller's account. Does nothing where none is linked.
///
/// # Errors
/// 409 where they have no other way to sign in.
pub async fn unlink(core: &Core, caller: &Caller) -> Result<()> {
    let mut tx = core.store.begin().await?;
    if !github::unlink(&mut tx, caller.user()).await? {
        return Ok(());
    }
    if !users::get(&mut tx, caller.user()).await?.has_password {
        return Err(Error::conflict(
            "You could no longer sign in without it. Set a password first.",
        ));
    }
    audit::record(
        &mut tx,
        caller,
        "github.unlink",
        format!("user {}", caller.login()),
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

async fn check_may_join(client: &Github, account: &Account, token: &SecretString) -> Result<()> {
    let join = &client.settings.join;
    let may = match join.by_login(&account.login) {
        Some(may) => may,
        None => join.by_organizations(&client.organizations(token).await?),
    };
    if may {
        return Ok(());
    }
    Err(Error::forbidden(
        "This GitHub account has no user here and may not create one. Ask an owner of this system for an \
         invitation, then link the account.",
    ))
}

/// The login at GitHub, adapted to our rule; with a number where another user has it here. That user is not
/// considered to be the same person.
async fn free_login(tx: &mut Transaction, account: &Account) -> Result<String> {
    let preferred = match ProjectName::parse(&account.login) {
        Ok(name) => name.to_string(),
        Err(refused) => refused
            .suggestion
            .map_or_else(|| format!("github-{}", account.id), |name| name.to_string()),
    };
    let stem: String = preferred.chars().take(30).collect();
    let stem = stem.trim_end_matches('-');
    let numbered = (2..=20).map(|number| format!("{stem}-{number}"));
    for login in std::iter::once(preferred.clone()).chain(numbered) {
        if users::is_login_free(tx, &login).await? {
            return Ok(login);
        }
    }
    // GitHub's number is unique.
    Ok(format!("github-{}", account.id))
}

fn object(account: &Account) -> String {
    format!("github account {} ({})", account.id, account.login)
}
