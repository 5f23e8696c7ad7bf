//! The caller of a request: which user, with which role, and by which credential.
//!
//! A [`Caller`] needs a [`Credential`]. Only the look-ups of [`super::sessions`] and [`super::tokens`] create one:
//! without a valid session or token there is no caller.

use std::{net::IpAddr, sync::Arc};

use chrono::{DateTime, Utc};
use fsa_model::{
    ProjectId, TokenId, UserId,
    api::{Role, Scope},
    limits::Limits,
};
use uuid::Uuid;

use crate::error::{Error, Result};

/// The time after a sign-in in which its user may create credentials.
const RECENT_SIGN_IN: chrono::Duration = chrono::Duration::hours(1);

/// An authenticated user. Look-ups of what belongs to a user take it as an argument.
#[derive(Clone, Debug)]
pub struct Caller {
    credential: Arc<Credential>,
    address: Address,
}

/// A valid session or token.
#[derive(Debug)]
pub struct Credential {
    pub(super) user: UserId,
    pub(super) login: String,
    pub(super) role: Role,
    pub(super) id: CredentialId,
    /// When the credential was created.
    pub(super) since: DateTime<Utc>,
    pub(super) scope: Scope,
    /// When the user proved their identity: the beginning of a session, also that in which a token of the command line was
    /// created.
    pub(super) signed_in_at: Option<DateTime<Utc>>,
    /// The only project that the credential is for, if it is for one.
    pub(super) only: Option<ProjectId>,
    /// The user's own quotas, where they differ from the server's.
    pub(super) limits: Option<Limits>,
}

/// The credential that a caller used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialId {
    /// A browser's cookie.
    Session(Uuid),
    /// A program's `Authorization` header.
    Token(TokenId),
}

/// The address that a request came from; read from the proxy's header where the proxy is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub Option<IpAddr>);

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

impl Credential {
    #[must_use]
    pub fn user(&self) -> UserId {
        self.user
    }
}

impl Caller {
    /// The user of a valid credential.
    #[must_use]
    pub fn new(credential: Arc<Credential>, address: Address) -> Self {
        Self { credential, address }
    }
    #[must_use]
    pub fn user(&self) -> UserId {
        self.credential.user
    }

    #[must_use]
    pub fn login(&self) -> &str {
        &self.credential.login
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.credential.role
    }

    #[must_use]
    pub fn credential(&self) -> CredentialId {
        self.credential.id
    }

    /// When the session or the token was created.
    #[must_use]
    pub fn since(&self) -> DateTime<Utc> {
        self.credential.since
    }

    /// The user's own quotas, where they differ from the server's.
    #[must_use]
    pub fn limits(&self) -> Option<Limits> {
        self.credential.limits
    }

    /// The only project that the credential is for, if it is for one.
    #[must_use]
    pub fn token_project(&self) -> Option<ProjectId> {
        self.credential.only
    }

    /// Whether the credential covers this project, provided that its user may see it.
    #[must_use]
    pub fn sees(&self, project: ProjectId) -> bool {
        self.credential.only.is_none_or(|only| only == project)
    }

    /// Refuses a credential that may not change things. Also used for the reveal of a secret, which is a GET.
    ///
    /// # Errors
    /// 403 for a token of the scope `read`.
    pub fn must_write(&self) -> Result<()> {
        match self.credential.scope {
            Scope::Write | Scope::Admin => Ok(()),
            Scope::Read => Err(Error::forbidden(
                "This API token may only read, and reveals no secrets.",
            )),
        }
    }

    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// When the user signed in for this credential; `None` for an API token of a program.
    #[must_use]
    pub fn signed_in_at(&self) -> Option<DateTime<Utc>> {
        self.credential.signed_in_at
    }

    /// Refuses a credential whose user has not proved their identity lately: a stolen token or cookie creates no other
    /// credentials. A token of the scope `admin` may.
    ///
    /// # Errors
    /// 403 `SignInAgain`.
    pub fn must_have_signed_in_recently(&self) -> Result<()> {
        let recent = |at: DateTime<Utc>| Utc::now() - at < RECENT_SIGN_IN;
        if self.credential.scope == Scope::Admin || self.credential.signed_in_at.is_some_and(recent) {
            return Ok(());
        }
        let sentence = "This needs a sign-in within the last hour; sign in again.";
        Err(
            Error::new(http::StatusCode::FORBIDDEN, "SignInAgain", sentence).with_message(format!(
                "{sentence} Tokens, links, invitations and users are changed only then, so that a stolen token or cookie creates \
                 no other credentials. On the command line: `fsa login`, or an API token of the scope `admin`."
            )),
        )
    }

    /// Refuses an API token: a link that signs in as another user is created in a browser session only.
    ///
    /// # Errors
    /// 403 for an API token.
    pub fn must_be_in_session(&self) -> Result<()> {
        match self.credential() {
            CredentialId::Session(_) => Ok(()),
            CredentialId::Token(_) => Err(Error::forbidden(
                "This is done in a browser's session, not with an API token.",
            )),
        }
    }

    /// Refuses anyone but an owner of the whole system.
    ///
    /// # Errors
    /// 403 for a member.
    pub fn must_be_owner(&self) -> Result<()> {
        match self.role() {
            Role::Owner => Ok(()),
            Role::Member => Err(Error::forbidden("Only an owner of this system may do that.")),
        }
    }
}
