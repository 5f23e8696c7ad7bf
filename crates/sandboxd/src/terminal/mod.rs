//! Terminal sessions: named shells that outlive their viewers.

pub mod input_dedup;
pub mod scrollback;
pub mod sequence;
pub mod session;
pub mod viewer;
mod viewer_handle;

use std::{collections::BTreeMap, sync::Arc};

use fsa_model::{sandboxd::TerminalSession, tty::WindowSize};
use http::StatusCode;
use parking_lot::Mutex;

use self::session::Session;
use crate::{http::ApiError, sandbox::Sandbox};

/// Name of the default session.
pub const MAIN: &str = "main";
/// Maximum number of sessions; each may keep [`scrollback::CAPACITY`].
const MAX_SESSIONS: usize = 32;

/// All sessions of the sandbox.
#[derive(Debug)]
pub struct Terminals {
    pub(super) sandbox: Arc<Sandbox>,
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
}

/// Request to open a terminal: which session, and as which user.
#[derive(Clone, Debug)]
pub struct TerminalRequest {
    pub name: String,
    pub user: Option<String>,
    /// Only output is sent: the session must exist, and input is ignored.
    pub read_only: bool,
}

impl TerminalRequest {
    /// Validates the parameters `session` and `user`.
    ///
    /// # Errors
    /// The name breaks its rule.
    pub fn new(name: Option<String>, user: Option<String>) -> Result<Self, ApiError> {
        let name = name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| MAIN.into());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.len() > 64 || !name.bytes().all(allowed) {
            return Err(ApiError::field(
                "session",
                "a name has 1 to 64 letters, digits, `-`, `_` and `.`",
            ));
        }
        Ok(Self {
            name,
            user: user.filter(|user| !user.is_empty()),
            read_only: false,
        })
    }
}

impl Terminals {
    #[must_use]
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        Self {
            sandbox,
            sessions: Mutex::default(),
        }
    }

    /// Returns the session of that name. Starts one if there is none and the request is not read-only.
    ///
    /// # Errors
    /// The session belongs to another user, there are too many, or the shell could not be started.
    pub fn open(
        self: &Arc<Self>,
        request: &TerminalRequest,
        size: WindowSize,
    ) -> Result<Arc<Session>, ApiError> {
        let sandbox = &self.sandbox;
        if request.read_only {
            return self.get(&request.name).ok_or_else(|| {
                ApiError::not_found(format!("there is no terminal `{}` to watch", request.name))
            });
        }
        let user = sandbox.accounts.find(request.user.as_deref())?;
        let mut sessions = self.sessions.lock();
        if let Some(session) = sessions.get(&request.name).filter(|session| !session.has_ended()) {
            return if session.uid == user.uid {
                Ok(Arc::clone(session))
            } else {
                Err(ApiError::conflict(format!(
                    "the terminal `{}` belongs to another user; choose another name",
                    request.name
                )))
            };
        }
        if *sandbox.stopping.borrow() {
            return Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Stopping",
                "the sandbox is stopping",
            ));
        }
        if sessions.len() >= MAX_SESSIONS {
            return Err(ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyTerminals",
                format!("there are {MAX_SESSIONS} terminals; close one first"),
            ));
        }
        let session = Session::start(self, &request.name, &user, size)?;
        sessions.insert(request.name.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// Sessions whose shell runs.
    #[must_use]
    pub fn list(&self) -> Vec<TerminalSession> {
        self.sessions
            .lock()
            .values()
            .filter(|session| !session.has_ended())
            .map(|session| session.describe())
            .collect()
    }

    /// The session of that name, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Session>> {
        self.sessions
            .lock()
            .get(name)
            .filter(|session| !session.has_ended())
            .cloned()
    }

    /// All sessions.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }

    fn remove(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock();
        if sessions
            .get(&session.name)
            .is_some_and(|current| Arc::ptr_eq(current, session))
        {
            sessions.remove(&session.name);
        }
    }
}
