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
        sign_in::{self, From, SignedIn},
    },
    core::Core,
    error::{Error, Result},
    github_client::{Account, Github},
    store::{Transaction, audit, github, sessions, users},
};

/// How long a sign-in may take at GitHub's page.
pub const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Where GitHub sends browsers back to, on the main host.
pub const CALLBACK: &str = "/api/auth/github/callback";

/// A sign-in that has begun.
pub struct Begun {
    pub url: Url,
    /// The value of the cookie that this browser must bring back.
    pub browser: SecretString,
}

/// What a browser brings back from GitHub.
pub struct Return {
    pub code: String,
    pub state: String,
    pub browser: Option<String>,
}

/// The outcome of a sign-in.
pub enum Done {
    SignedIn(SignedIn),
    Linked,
}

/// The configured GitHub server.
///
/// # Errors
/// 409 where there is none.
pub(super) fn github_of(core: &Core) -> Result<&Github> {
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
pub async fn begin(core: &Core, link_to: Option<&Caller>, address: Address) -> Result<Begun> {
    let way = github_of(core)?;
    core.attempts.of_address(address)?;
    let departure = way.departure(callback(core));
    let browser = secret::random();
    github::begin(
        &core.store,
        &core.key_ring,
        &secret::hash(departure.state.expose_secret()),
        &secret::hash(browser.expose_secret()),
        &departure.verifier,
        link_to.map(Caller::user),
        LIFETIME,
    )
    .await?;
    Ok(Begun {
        url: departure.url,
        browser,
    })
}

/// Finishes a sign-in that [`begin`] began.
///
/// # Errors
/// 403 where this browser did not begin it, it was used or is too old, GitHub refuses the code, or
/// the account may not join; 409 where the account is linked to another user.
pub async fn finish(core: &Core, back: Return, caller: Option<&Caller>, from: &From<'_>) -> Result<Done> {
    let way = github_of(core)?;
    core.attempts.of_address(from.address)?;
    let stray = || {
        Error::forbidden(
            "This sign-in was not begun in this browser, was used already, or is too old. Begin it again.",
        )
    };
    let browser = back.browser.ok_or_else(stray)?;
    let begun = github::take(&core.store, &core.key_ring, &secret::hash(&back.state))
        .await?
        .ok_or_else(stray)?;
    if !bool::from(secret::hash(&browser).ct_eq(&begun.browser_hash)) {
        return Err(stray());
    }
    if begun.link_to.is_some() && begun.link_to != caller.map(Caller::user) {
        return Err(Error::forbidden(
            "Somebody else is signed in now than when the linking began; begin it again.",
        ));
    }
    let grant = way.exchange(callback(core), back.code, &begun.verifier).await?;
    let account = way.account(&grant.token).await?;
    let mut tx = core.store.begin().await?;
    if let (Some(user), Some(caller)) = (begun.link_to, caller) {
        github::link(&mut tx, &core.key_ring, user, account.id, &account.login, &grant).await?;
        audit::record(&mut tx, caller, "github.link", object(&account)).await?;
        tx.commit().await?;
        return Ok(Done::Linked);
    }
    let user = match github::user_of(&mut tx, account.id).await? {
        Some(user) => user,
        None => {
            must_join(way, &account, &grant.token).await?;
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
        sign_in::forget(core, caller.user());
    }
    Ok(Done::SignedIn(signed_in))
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
            "You could not sign in any more without it: set a password first.",
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

async fn must_join(way: &Github, account: &Account, token: &SecretString) -> Result<()> {
    let join = &way.settings.join;
    let may = match join.by_login(&account.login) {
        Some(may) => may,
        None => join.by_organizations(&way.organizations(token).await?),
    };
    if may {
        return Ok(());
    }
    Err(Error::forbidden(
        "This GitHub account has no user here and may not make one. Ask an owner of this system for an \
         invitation, and link the account then.",
    ))
}

/// The login at GitHub, adapted to our rule; with a number where another user has it here. That user is not
/// considered to be the same person.
async fn free_login(tx: &mut Transaction, account: &Account) -> Result<String> {
    let wished = match ProjectName::parse(&account.login) {
        Ok(name) => name.to_string(),
        Err(refused) => refused
            .suggestion
            .map_or_else(|| format!("github-{}", account.id), |name| name.to_string()),
    };
    let stem: String = wished.chars().take(30).collect();
    let stem = stem.trim_end_matches('-');
    let numbered = (2..=20).map(|number| format!("{stem}-{number}"));
    for login in std::iter::once(wished.clone()).chain(numbered) {
        if users::is_free(tx, &login).await? {
            return Ok(login);
        }
    }
    // GitHub's number is unique.
    Ok(format!("github-{}", account.id))
}

fn object(account: &Account) -> String {
    format!("github account {} ({})", account.id, account.login)
}
