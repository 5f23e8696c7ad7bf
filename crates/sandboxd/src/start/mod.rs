//! What runs in a sandbox by itself: first the clone of the repository, then the start command or
//! the entries of the Procfile, each kept running.

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
use crate::{http::Refusal, sandbox::Sandbox, user};

/// What is wanted to run, and what runs.
#[derive(Debug)]
pub struct Start {
    command: Option<String>,
    repository: Option<Repository>,
    plan: watch::Sender<Plan>,
    /// The sessions of the running entries.
    live: Mutex<Vec<i32>>,
    /// The Procfile as it was seen last: inode, size, time of change in nanoseconds.
    seen: Mutex<Option<(u64, u64, i128)>>,
}

/// What is to run now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    entries: Vec<Entry>,
    /// Nothing is started before the repository is there.
    ready: bool,
    /// Grows when all is to be started anew.
    round: u64,
}

impl Start {
    #[must_use]
    pub fn new(command: Option<String>, repository: Option<Repository>) -> Self {
        let entries = command.as_deref().map(procfile::single).unwrap_or_default();
        Self {
            command,
            repository,
            plan: watch::Sender::new(Plan {
                entries,
                ready: false,
                round: 0,
            }),
            live: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Ends what runs and starts it again, with the Procfile as it is now.
    ///
    /// # Errors
    /// There is nothing to start.
    pub async fn again(&self, sandbox: &Arc<Sandbox>) -> Result<(), Refusal> {
        *self.seen.lock() = None;
        let before = self.plan.borrow().round;
        self.look_for_procfile(sandbox).await;
        let plan = self.plan.borrow().clone();
        if plan.entries.is_empty() {
            return Err(Refusal::conflict(
                "there is no start command and no Procfile; set one, or write a Procfile with a line `web: …`",
            ));
        }
        if !plan.ready {
            return Err(Refusal::conflict("the start command waits for the repository"));
        }
        if plan.round == before {
            self.plan.send_modify(|plan| plan.round += 1);
        }
        Ok(())
    }

    /// Reads the Procfile if it is another than before. A start command of the project's own
    /// comes before any Procfile.
    pub async fn look_for_procfile(&self, sandbox: &Arc<Sandbox>) {
        if self.command.is_some() || *sandbox.stopping.borrow() {
            return;
        }
        let path = sandbox.project.join("Procfile");
        let found = fs::metadata(&path)
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|found| {
                let changed = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
                (found.ino(), found.size(), changed)
            });
        if *self.seen.lock() == found && (found.is_some() || self.plan.borrow().entries.is_empty()) {
            return;
        }
        let Ok(user) = sandbox.accounts.find(None) else {
            return;
        };
        // The person's file, read with the person's rights: it may be a link to anything.
        let text = tokio::task::spawn_blocking(move || {
            user::with_rights_of(&user, || {
                let mut text = Vec::new();
                fs::File::open(path)?
                    .take(procfile::LONGEST as u64)
                    .read_to_end(&mut text)?;
                Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
            })
        })
        .await;
        let text = match text {
            Ok(Ok(Ok(text))) => text,
            _ => String::new(),
        };
        *self.seen.lock() = found;
        let entries = procfile::parse(&text);
        self.plan.send_if_modified(|plan| {
            let changed = plan.entries != entries;
            if changed {
                sandbox.logs.say(match entries.len() {
                    0 => "there is no Procfile any more".to_owned(),
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

    /// Tries the clone again.
    ///
    /// # Errors
    /// There is nothing to clone, it is there already, or is being cloned.
    pub fn clone_again(&self, sandbox: &Arc<Sandbox>) -> Result<(), Refusal> {
        let Some(repository) = self.repository.clone() else {
            return Err(Refusal::conflict("this project has no repository"));
        };
        let mut refused = None;
        sandbox.tell(|status| match status.repository {
            RepositoryState::Cloning => refused = Some("the repository is being cloned already"),
            RepositoryState::Cloned => refused = Some("the repository was cloned already"),
            _ => status.repository = RepositoryState::Cloning,
        });
        if let Some(sentence) = refused {
            return Err(Refusal::conflict(sentence));
        }
        tokio::spawn(prepare(Arc::clone(sandbox), repository));
        Ok(())
    }
}

/// Begins: the clone if there is one to be made, and the supervision of what follows. The task
/// ends when the sandbox is stopping and what was supervised has ended.
pub fn begin(sandbox: &Arc<Sandbox>) -> JoinHandle<()> {
    let supervision = tokio::spawn(supervise::run(Arc::clone(sandbox)));
    match sandbox.start.repository.clone() {
        Some(repository) => {
            sandbox.tell(|status| {
                status.repository = RepositoryState::Cloning;
                if sandbox.start.command.is_some() {
                    status.start_command = StartCommand::Waiting;
                }
            });
            tokio::spawn(prepare(Arc::clone(sandbox), repository));
        }
        None => sandbox.start.plan.send_modify(|plan| plan.ready = true),
    }
    supervision
}

async fn prepare(sandbox: Arc<Sandbox>, repository: Repository) {
    let outcome = repository::clone(&sandbox, &repository).await;
    let state = match outcome {
        Ok(()) => RepositoryState::Cloned,
        Err(message) => {
            sandbox
                .logs
                .say(format!("the repository was not cloned: {message}"));
            RepositoryState::Failed { message }
        }
    };
    let cloned = state == RepositoryState::Cloned;
    sandbox.tell(|status| status.repository = state);
    if cloned {
        sandbox.start.look_for_procfile(&sandbox).await;
        sandbox.start.plan.send_modify(|plan| plan.ready = true);
        sandbox.pulse.poke();
    }
}
