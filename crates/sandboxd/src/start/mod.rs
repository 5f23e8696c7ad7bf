//! Start: clones the repository, then supervises the start command or the entries of the Procfile.

pub mod procfile;
pub mod repository;
pub mod supervise;

use std::{fs, io::Read as _, os::unix::fs::MetadataExt, sync::Arc};

use fsa_model::{
    sandboxd::{RepositoryState, StartCommand},
    spec::Repository,
};
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle};

use self::procfile::Entry;
use crate::{http::ApiError, sandbox::Sandbox, user};

/// State of the start: the commands to run, and those that run.
#[derive(Debug)]
pub struct Start {
    pub sandbox: Arc<Sandbox>,
    command: Option<String>,
    repository: Option<Repository>,
    plan: watch::Sender<Plan>,
    /// The sessions of the running entries.
    live: Mutex<Vec<i32>>,
    /// The Procfile that was read last: inode, size, time of change in nanoseconds.
    read_procfile: Mutex<Option<(u64, u64, i128)>>,
}

/// Desired state: the commands that must run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    entries: Vec<Entry>,
    /// The repository is there; nothing is started before.
    ready: bool,
    /// Grows when all commands must be restarted.
    round: u64,
}

impl Start {
    #[must_use]
    pub fn new(sandbox: Arc<Sandbox>, command: Option<String>, repository: Option<Repository>) -> Self {
        let entries = command.as_deref().map(procfile::single).unwrap_or_default();
        Self {
            sandbox,
            command,
            repository,
            plan: watch::Sender::new(Plan {
                entries,
                ready: false,
                round: 0,
            }),
            live: Mutex::default(),
            read_procfile: Mutex::default(),
        }
    }

    /// Restarts all commands, with the current Procfile.
    ///
    /// # Errors
    /// There is nothing to start.
    pub async fn restart(&self) -> Result<(), ApiError> {
        *self.read_procfile.lock() = None;
        let before = self.plan.borrow().round;
        self.check_procfile().await;
        let plan = self.plan.borrow().clone();
        if plan.entries.is_empty() {
            return Err(ApiError::conflict(
                "there is no start command and no Procfile; set one, or write a Procfile with a line `web: …`",
            ));
        }
        if !plan.ready {
            return Err(ApiError::conflict("the start command waits for the repository"));
        }
        if plan.round == before {
            self.plan.send_modify(|plan| plan.round += 1);
        }
        Ok(())
    }

    /// Reads the Procfile if it has changed. The project's start command takes precedence over a Procfile.
    pub async fn check_procfile(&self) {
        let sandbox = &self.sandbox;
        if self.command.is_some() || *sandbox.stopping.borrow() {
            return;
        }
        let path = sandbox.project.join("Procfile");
        let procfile = fs::metadata(&path)
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|file| {
                let changed = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
                (file.ino(), file.size(), changed)
            });
        let unchanged = *self.read_procfile.lock() == procfile;
        if unchanged && (procfile.is_some() || self.plan.borrow().entries.is_empty()) {
            return;
        }
        let Ok(user) = sandbox.accounts.find(None) else {
            return;
        };
        // Read with the person's permissions: the file may be a link to anything.
        let text = tokio::task::spawn_blocking(move || {
            user::with_fs_ids_of(&user, || {
                let mut text = Vec::new();
                fs::File::open(path)?
                    .take(procfile::MAX_PROCFILE_BYTES as u64)
                    .read_to_end(&mut text)?;
                Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
            })
        })
        .await;
        let text = match text {
            Ok(Ok(Ok(text))) => text,
            _ => String::new(),
        };
        *self.read_procfile.lock() = procfile;
        let entries = procfile::parse(&text);
        self.plan.send_if_modified(|plan| {
            let changed = plan.entries != entries;
            if changed {
                sandbox.logs.add_notice(match entries.len() {
                    0 => "the Procfile was removed".to_owned(),
                    _ => {
                        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
                        format!("found a Procfile: {}", names.join(", "))
                    }
                });
                plan.entries = entries;
                plan.round += 1;
            }
            changed
        });
    }

    /// Retries a failed clone.
    ///
    /// # Errors
    /// There is no repository, it was cloned already, or is being cloned.
    pub fn retry_clone(self: &Arc<Self>) -> Result<(), ApiError> {
        let Some(repository) = self.repository.clone() else {
            return Err(ApiError::conflict("this project has no repository"));
        };
        let mut refused = None;
        self.sandbox.update_status(|status| match status.repository {
            RepositoryState::Cloning => refused = Some("the repository is being cloned already"),
            RepositoryState::Cloned => refused = Some("the repository was cloned already"),
            _ => status.repository = RepositoryState::Cloning,
        });
        if let Some(sentence) = refused {
            return Err(ApiError::conflict(sentence));
        }
        tokio::spawn(clone(Arc::clone(self), repository));
        Ok(())
    }
}

/// Begins the clone, if there is a repository, and the supervision. The returned task ends when the
/// sandbox is stopping and all supervised commands have ended.
pub fn begin(start: &Arc<Start>) -> JoinHandle<()> {
    let supervision = tokio::spawn(supervise::run(Arc::clone(start)));
    match start.repository.clone() {
        Some(repository) => {
            start.sandbox.update_status(|status| {
                status.repository = RepositoryState::Cloning;
                if start.command.is_some() {
                    status.start_command = StartCommand::Waiting;
                }
            });
            tokio::spawn(clone(Arc::clone(start), repository));
        }
        None => start.plan.send_modify(|plan| plan.ready = true),
    }
    supervision
}

async fn clone(start: Arc<Start>, repository: Repository) {
    let sandbox = &start.sandbox;
    let (state, warning) = match repository::clone(sandbox, &repository).await {
        Ok(missing) => (RepositoryState::Cloned, missing),
        Err(message) => {
            sandbox
                .logs
                .add_notice(format!("the repository was not cloned: {message}"));
            (RepositoryState::Failed { message }, None)
        }
    };
    if let Some(warning) = &warning {
        sandbox
            .logs
            .add_notice(format!("the repository was cloned, but {warning}"));
    }
    let cloned = state == RepositoryState::Cloned;
    sandbox.update_status(|status| {
        status.repository = state;
        status.clone_warning = warning;
    });
    if cloned {
        start.check_procfile().await;
        start.plan.send_modify(|plan| plan.ready = true);
        sandbox.poll_trigger.notify();
    }
}
