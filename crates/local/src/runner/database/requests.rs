//! Requests about databases: checks their mutexes and calls what carries them out.

use fsa_model::Failure;

use super::log;
use crate::{
    protocol::{Request, Response, machine},
    runner::{Runner, deferred_delete},
};

/// Carries out a request about a database.
///
/// # Errors
/// The operation's.
pub fn perform(runner: &Runner, request: Request) -> Result<Response, Failure> {
    let servers = &runner.databases;
    Ok(match request {
        Request::EnsureDatabase { volume, setup } => {
            let _lock = runner.volume_locks.take(volume);
            servers.exclusively(volume, |_| runner.ensure_database(volume, setup))?;
            Response::Done
        }
        Request::StartDatabase { volume } => {
            // A restore replaces the files.
            let _lock = runner.volume_locks.take(volume);
            servers.exclusively(volume, |entry| runner.start_database(entry, volume))?;
            Response::Databases {
                servers: runner.observe_database(volume)?.into_iter().collect(),
            }
        }
        Request::OpenDatabase { volume } => {
            servers.exclusively(volume, |entry| runner.open_database(entry, volume))?;
            Response::Done
        }
        Request::StopDatabase { volume, when } => Response::Stopped {
            stopped: servers.exclusively(volume, |entry| runner.stop_database(entry, volume, when))?,
        },
        Request::RemoveDatabase { volume } => {
            let _lock = runner.volume_locks.take(volume);
            let discarded = servers.exclusively(volume, |entry| runner.remove_database(entry, volume))?;
            servers.forget(volume);
            if let Some(discarded) = discarded {
                deferred_delete::delete(&discarded).map_err(|error| {
                    machine(format!("the database's files could not all be removed ({error})"))
                })?;
            }
            Response::Done
        }
        Request::CopyDatabase { from, to, setup } if from != to => {
            // `to` is new, so no other request waits for it while it holds `from`.
            let _locks = [from, to].map(|volume| runner.volume_locks.take(volume));
            servers.exclusively(from, |source| {
                servers.exclusively(to, |_| runner.copy_database(source, from, to, setup))
            })?;
            Response::Done
        }
        Request::CopySnapshotDatabase { from, snapshot, to } if from != to => {
            // `to` is new, so no other request waits for it while it holds `from`.
            let _locks = [from, to].map(|volume| runner.volume_locks.take(volume));
            servers.exclusively(to, |_| runner.copy_snapshot_database(from, snapshot, to))?;
            Response::Done
        }
        Request::ObserveDatabase { volume } => Response::Databases {
            servers: runner.observe_database(volume)?.into_iter().collect(),
        },
        Request::Databases => Response::Databases {
            servers: runner.databases()?,
        },
        Request::DatabaseDisk { volume } => Response::Disk {
            bytes: runner.database_disk(volume),
        },
        Request::DatabaseLog { volume, bytes } => Response::Log {
            text: log::tail(&runner.database_files(volume).log(), bytes.min(log::TAIL_MAX))
                .map_err(|error| machine(format!("the database's log cannot be read ({error})")))?,
        },
        _ => {
            return Err(Failure::new(
                fsa_model::FailureKind::Internal,
                "an invalid request about a database",
            ));
        }
    })
}
