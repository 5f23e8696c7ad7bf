//! Sign-in by one-time link or password. Every way of signing in ends in [`sign_in`], also the one with GitHub
//! ([`crate::github`]).

use std::time::Duration;

use chrono::{DateTime, Utc};
use fsa_model::{
    UserId,
    api::{ApiToken, CreateToken, Role, Scope},
    auth::{SignInByLink, SignInByPassword},
};
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;

use super::{
    Address, Caller, CredentialId,
    cookie::{self, OurCookie},
    known_browser::KnownBrowser,
    password::{self, Priority},
    secret,
};
use crate::{
    core::Core,
    error::{Error, Result},
    store::{
        audit::{self, NewEntry},
        login_links::{self, Purpose},
        notify::Topic,
        projects, sessions,
        tokens::{self, NewToken},
        users,
    },
};

/// The lifetime of a sign-in link. The person who requested it uses it at once.
const SIGN_IN_LINK_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The lifetime of an invitation. The recipient may read their mail days later.
const INVITE_LINK_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The lifetime of a token, unless its user chooses another one.
const TOKEN_LIFETIME: chrono::Duration = chrono::Duration::days(90);
/// A session younger than this counts as a recent proof of identity.
const RECENT_SESSION: chrono::Duration = chrono::Duration::minutes(15);

/// A one-time link. Its token is in the fragment, so no server log contains it.
pub struct OneTimeLink {
    pub url: SecretString,
    pub expires_at: DateTime<Utc>,
}

/// The response to a browser after a sign-in.
pub struct SignedIn {
    pub user: UserId,
    /// The cookie's value.
    pub session: SecretString,
}

/// The client of a sign-in.
pub struct ClientInfo<'a> {
    pub address: Address,
    pub user_agent: &'a str,
    headers: &'a HeaderMap,
}

impl SignedIn {
    /// `Set-Cookie` for the new session, and for the browser, which is known from now on.
    #[must_use]
    pub fn cookies(&self, core: &Core) -> [HeaderValue; 2] {
        let settings = &core.settings;
        [
            OurCookie::Session.set(settings, self.session.expose_secret(), cookie::MAX_LIFETIME),
            KnownBrowser::remember(settings, &core.key_ring, self.user),
        ]
    }
}

impl<'a> ClientInfo<'a> {
    #[must_use]
    pub fn new(address: Address, headers: &'a HeaderMap) -> Self {
        Self {
            address,
            user_agent: headers
                .get(http::header::USER_AGENT)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default(),
            headers,
        }
    }
}

/// Begins a session of `user`. Every way of signing in ends here.
///
/// # Errors
/// 403 where the user is disabled; the database does not answer.
pub async fn sign_in(
    tx: &mut PgConnection,
    user: UserId,
    way: &str,
    from: &ClientInfo<'_>,
) -> Result<SignedIn> {
    if !users::is_enabled(tx, user).await? {
        return Err(Error::forbidden(
            "This account is disabled; ask an owner of this system.",
        ));
    }
    let session = secret::random();
    let address = from.address.to_string();
    let hash = secret::hash(session.expose_secret());
    sessions::insert(tx, &hash, user, from.user_agent, &address).await?;
    let entry = NewEntry {
        user: Some(user),
        action: "session.begin",
        object: way.to_owned(),
        address: &address,
        result: "ok",
    };
    audit::append(tx, entry).await?;
    Ok(SignedIn { user, session })
}

/// Signs in with a one-time link, or becomes a member with an invitation.
///
/// # Errors
/// 403 where the link is used up or expired; 422 where an invitation needs a login first (it is
/// not used up then).
pub async fn by_link(core: &Core, request: SignInByLink, from: &ClientInfo<'_>) -> Result<SignedIn> {
    core.login_throttle.count_address(from.address)?;
    let hash = secret::hash(request.token.trim());
    let spent =
        || Error::forbidden("This link was used already, or is too old. Ask for a new one: each works once.");
    let mut tx = core.store.begin().await?;
    let purpose = login_links::find(&mut tx, &hash).await?.ok_or_else(spent)?;
    // A password is hashed before the link is used up: both may refuse.
    let password = match (purpose, request.password) {
        (Purpose::Invite(_), Some(password)) => {
            let password = SecretString::from(password);
            password::check(&password)?;
            Some(password::hash(password, Priority::Unknown).await?)
        }
        _ => None,
    };
    if !login_links::use_up(&mut tx, &hash).await? {
        return Err(spent());
    }
    let user = match purpose {
        Purpose::SignIn(user) => user,
        Purpose::Invite(role) => {
            let login = request
                .login
                .ok_or_else(|| Error::invalid("login", "choose a login to accept this invitation"))?;
            check_login(&login)?;
            users::insert(&mut tx, &login, role, password.as_deref()).await?
        }
    };
    let signed_in = sign_in(&mut tx, user, "link", from).await?;
    tx.commit().await?;
    Ok(signed_in)
}

/// Signs in with login and password.
///
/// # Errors
/// 401, which does not reveal which of the two was wrong; 429 after too many attempts.
pub async fn by_password(core: &Core, request: SignInByPassword, from: &ClientInfo<'_>) -> Result<SignedIn> {
    let browser = KnownBrowser::of(&core.settings, &core.key_ring, from.headers);
    match browser {
        Some(browser) => core.login_throttle.count_browser(browser.id)?,
        None => core.login_throttle.count_login(&request.login, from.address)?,
    }
    let found = users::password_of(&core.store, &request.login).await?;
    let (user, hashed) = found.map_or((None, None), |(user, hashed)| (Some(user), hashed));
    let is_known = browser.is_some_and(|browser| Some(browser.user) == user);
    if browser.is_some() && !is_known {
        core.login_throttle.count_login(&request.login, from.address)?;
    }
    let priority = if is_known {
        Priority::Known
    } else {
        Priority::Unknown
    };
    let right = password::verify(request.password.into(), hashed, priority).await?;
    let mut tx = core.store.begin().await?;
    let Some(user) = user.filter(|_| right) else {
        if !core.login_throttle.admits_audit_entry() {
            tracing::info!(login = request.login, address = %from.address, "a sign-in was refused");
            return Err(Error::unauthorized("Login or password is wrong."));
        }
        let address = from.address.to_string();
        let entry = NewEntry {
            user,
            action: "session.begin",
            object: "password".into(),
            address: &address,
            result: "refused",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        return Err(Error::unauthorized("Login or password is wrong."));
    };
    let signed_in = sign_in(&mut tx, user, "password", from).await?;
    tx.commit().await?;
    Ok(signed_in)
}

/// Sets the caller's password and ends their other sessions. A session that has just begun needs no current password,
/// so that a link works for a user who forgot it. A first password needs a recent sign-in.
///
/// # Errors
/// 403 for an API token, and where the current password is missing or wrong.
pub async fn set_password(
    core: &Core,
    caller: &Caller,
    current: Option<SecretString>,
    new: SecretString,
) -> Result<()> {
    let CredentialId::Session(session) = caller.credential() else {
        return Err(Error::forbidden(
            "A password is set in a browser's session, not with an API token.",
        ));
    };
    password::check(&new)?;
    let hashed = users::password_hash(&core.store, caller.user()).await?;
    if hashed.is_none() {
        caller.must_have_signed_in_recently()?;
    }
    if hashed.is_some() && Utc::now() - caller.since() > RECENT_SESSION {
        core.login_throttle
            .count_login(caller.login(), caller.address())?;
        let current = current
            .ok_or_else(|| Error::invalid("current", "the current password is needed to change it"))?;
        if !password::verify(current, hashed, Priority::Known).await? {
            return Err(Error::forbidden("The current password is wrong."));
        }
    }
    let hashed = password::hash(new, Priority::Known).await?;
    let mut tx = core.store.begin().await?;
    users::set_password(&mut tx, caller.user(), &hashed).await?;
    sessions::end_all(&mut tx, caller.user(), Some(session)).await?;
    audit::record(
        &mut tx,
        caller,
        "password.set",
        format!("user {}", caller.login()),
    )
    .await?;
    tx.commit().await?;
    invalidate(core, caller.user());
    Ok(())
}

/// A new sign-in link for `user`, which may be the caller.
///
/// # Errors
/// 403 without a recent sign-in.
pub async fn sign_in_link(core: &Core, caller: &Caller, user: UserId) -> Result<OneTimeLink> {
    caller.must_have_signed_in_recently()?;
    let mut tx = core.store.begin().await?;
    let link = new_link(core, &mut tx, Purpose::SignIn(user), Some(caller.user())).await?;
    audit::record(&mut tx, caller, "link.create", format!("user {user}")).await?;
    tx.commit().await?;
    Ok(link)
}

/// A link that creates a new user.
///
/// # Errors
/// 403 for a member, and without a recent sign-in.
pub async fn invite_link(core: &Core, caller: &Caller, role: Role) -> Result<OneTimeLink> {
    caller.must_be_owner()?;
    caller.must_have_signed_in_recently()?;
    let mut tx = core.store.begin().await?;
    let link = new_link(core, &mut tx, Purpose::Invite(role), Some(caller.user())).await?;
    audit::record(
        &mut tx,
        caller,
        "invite.create",
        format!("role {role:?}").to_lowercase(),
    )
    .await?;
    tx.commit().await?;
    Ok(link)
}

/// The link that a server prints at its start while no owner has a way to sign in. Creates the owner where there is
/// none.
///
/// # Errors
/// The database does not answer; the configured login is not a valid one.
pub async fn first_link(core: &Core) -> Result<Option<OneTimeLink>> {
    let mut tx = core.store.begin().await?;
    let owner = match users::first_owner(&mut tx).await? {
        Some((_, true)) => return Ok(None),
        Some((owner, false)) => owner,
        None => first_owner(core, &mut tx).await?,
    };
    let link = new_link(core, &mut tx, Purpose::SignIn(owner), None).await?;
    tx.commit().await?;
    Ok(Some(link))
}

/// A token of the first owner, for a program that starts the server and then uses it.
///
/// # Errors
/// Same as [`first_link`].
pub async fn create_token_for_owner(core: &Core, name: &str) -> Result<SecretString> {
    let mut tx = core.store.begin().await?;
    let owner = match users::first_owner(&mut tx).await? {
        Some((owner, _)) => owner,
        None => first_owner(core, &mut tx).await?,
    };
    let token = secret::api_token();
    let hash = secret::hash(token.expose_secret());
    let end = Some(Utc::now() + TOKEN_LIFETIME);
    let new = NewToken {
        user: owner,
        name,
        expires_at: end,
        scope: Scope::Admin,
        only: None,
        signed_in_at: None,
    };
    tokens::insert(&mut tx, &hash, new).await?;
    tx.commit().await?;
    Ok(token)
}

/// A new API token of the caller; only this response contains the secret.
///
/// # Errors
/// 403 without a recent sign-in; 422 for a name that is empty or too long, or an expiry in the past.
pub async fn create_token(core: &Core, caller: &Caller, request: CreateToken) -> Result<ApiToken> {
    caller.must_have_signed_in_recently()?;
    if request.scope == Scope::Admin && request.project.is_some() {
        return Err(Error::invalid(
            "scope",
            "a token for one project has the scope read or write",
        ));
    }
    if request.never_expires && request.expires_at.is_some() {
        return Err(Error::invalid(
            "neverExpires",
            "give expiresAt or neverExpires, not both",
        ));
    }
    let default = (!request.never_expires).then(|| Utc::now() + TOKEN_LIFETIME);
    let expires_at = request.expires_at.or(default);
    let name = request.name.trim();
    if name.is_empty() || name.chars().count() > 100 {
        return Err(Error::invalid("name", "a token's name has 1 to 100 characters"));
    }
    if expires_at.is_some_and(|end| end <= Utc::now()) {
        return Err(Error::invalid("expiresAt", "it is in the past"));
    }
    if tokens::count(&core.store, caller).await? >= 200 {
        return Err(Error::conflict(
            "You have 200 API tokens already; revoke one first.",
        ));
    }
    let only = match &request.project {
        Some(project) => Some(
            projects::find::<super::permission::Read>(&core.store, caller, project)
                .await?
                .id,
        ),
        None => None,
    };
    // A token passes its sign-in on to no other one, so the hour is never prolonged.
    let is_session = matches!(caller.credential(), CredentialId::Session(_));
    let signed_in_at = caller.signed_in_at().filter(|_| is_session && request.sign_in);
    let token = secret::api_token();
    let mut tx = core.store.begin().await?;
    let hash = secret::hash(token.expose_secret());
    let new = NewToken {
        user: caller.user(),
        name,
        expires_at,
        scope: request.scope,
        only,
        signed_in_at,
    };
    let mut created = tokens::insert(&mut tx, &hash, new).await?;
    audit::record(&mut tx, caller, "token.create", format!("token {}", created.id)).await?;
    tx.commit().await?;
    created.token = Some(token.expose_secret().to_owned());
    Ok(created)
}

/// Invalidates a user's cached credentials in every process: in this one at once, in others by the notification that
/// the change itself sends.
pub fn invalidate(core: &Core, user: UserId) {
    core.credentials.invalidate(Some(user));
    core.hub.wake(Topic::Credentials(user));
}

async fn first_owner(core: &Core, tx: &mut PgConnection) -> Result<UserId> {
    let login = &core.settings.owner_login;
    check_login(login)?;
    users::insert(tx, login, Role::Owner, None).await
}

async fn new_link(
    core: &Core,
    tx: &mut PgConnection,
    purpose: Purpose,
    created_by: Option<UserId>,
) -> Result<OneTimeLink> {
    let lifetime = match purpose {
        Purpose::SignIn(_) => SIGN_IN_LINK_LIFETIME,
        Purpose::Invite(_) => INVITE_LINK_LIFETIME,
    };
    let token = secret::random();
    let hash = secret::hash(token.expose_secret());
    let expires_at = login_links::insert(tx, &hash, purpose, created_by, lifetime).await?;
    let url = format!(
        "{}/sign-in#{}",
        core.settings.origin_text(),
        token.expose_secret()
    );
    Ok(OneTimeLink {
        url: url.into(),
        expires_at,
    })
}

fn check_login(login: &str) -> Result<()> {
    // The rule of a project's name is that of a DNS label; a login is one in host names.
    match fsa_model::ProjectName::parse(login) {
        Ok(_) => Ok(()),
        Err(refused) => Err(Error::invalid("login", users::LOGIN_RULE).with_suggestion(refused.suggestion)),
    }
}
