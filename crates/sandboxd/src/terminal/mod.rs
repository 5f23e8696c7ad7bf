//! Terminals: named sessions that outlive their viewers.

mod chair;
pub mod pty;
pub mod scrollback;
pub mod sequence;
pub mod session;
pub mod typists;
pub mod viewer;

use std::{collections::BTreeMap, sync::Arc};

use fsa_model::{sandboxd::TerminalSession, tty::WindowSize};
use http::StatusCode;
use parking_lot::Mutex;

use self::session::Session;
use crate::{http::Refusal, sandbox::Sandbox};

/// The session that is meant where none is named.
pub const MAIN: &str = "main";
/// Sessions at a time: each may keep [`scrollback::CAPACITY`].
const SESSIONS: usize = 32;

/// All sessions of the sandbox.
#[derive(Debug, Default)]
pub struct Terminals {
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
}

/// Which session somebody wants, and as whom.
#[derive(Clone, Debug)]
pub struct Wish {
    pub name: String,
    pub user: Option<String>,
    /// To see it and no more: it must be there, and what is typed goes nowhere.
    pub watches: bool,
}

impl Wish {
    /// Reads the parameters `session` and `user`.
    ///
    /// # Errors
    /// The name breaks its rule.
    pub fn new(name: Option<String>, user: Option<String>) -> Result<Self, Refusal> {
        let name = name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| MAIN.into());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.len() > 64 || !name.bytes().all(allowed) {
            return Err(Refusal::field(
                "session",
                "a name has 1 to 64 letters, digits, `-`, `_` and `.`",
            ));
        }
        Ok(Self {
            name,
            user: user.filter(|user| !user.is_empty()),
            watches: false,
        })
    }
}

impl Terminals {
    /// The session of that name; made if there is none, unless to watch it.
    ///
    /// # Errors
    /// It belongs to another user, there are too many, or the shell could not be started.
    pub fn open(
        &self,
        sandbox: &Arc<Sandbox>,
        wish: &Wish,
        size: WindowSize,
    ) -> Result<Arc<Session>, Refusal> {
        if wish.watches {
            return self
                .get(&wish.name)
                .ok_or_else(|| Refusal::not_found(format!("there is no terminal `{}` to watch", wish.name)));
        }
        let user = sandbox.accounts.find(wish.user.as_deref())?;
        let mut sessions = self.sessions.lock();
        if let Some(session) = sessions.get(&wish.name).filter(|session| !session.has_ended()) {
            return if session.uid == user.uid {
                Ok(Arc::clone(session))
            } else {
                Err(Refusal::conflict(format!(
                    "the terminal `{}` belongs to another user; choose another name",
                    wish.name
                )))
            };
        }
        if *sandbox.stopping.borrow() {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Stopping",
                "the sandbox is stopping",
            ));
        }
        if sessions.len() >= SESSIONS {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyTerminals",
                format!("there are {SESSIONS} terminals; close one first"),
            ));
        }
        let session = Session::start(sandbox, &wish.name, &user, size)?;
        sessions.insert(wish.name.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// What there is.
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

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }

    fn forget(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock();
        if sessions
            .get(&session.name)
            .is_some_and(|found| Arc::ptr_eq(found, session))
        {
            sessions.remove(&session.name);
        }
    }
}
