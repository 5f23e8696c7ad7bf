//! Request server of the runner: one thread per request.
//!
//! Some requests enter a network namespace or change their working folder, so their thread cannot
//! be reused. A new thread costs a few microseconds more than one of a pool, and an idle runner
//! has none.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use fsa_model::{Failure, FailureKind};
use parking_lot::{Condvar, Mutex};

use super::{Runner, STACK, database, deferred_delete, storage};
use crate::protocol::{self, Call, Message, Packet, Request, Response, VERSION};

/// Concurrent requests; more wait in the socket.
const CONCURRENT_MAX: usize = 128;
/// A longer grace would hold up a deletion.
const GRACE_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Busy {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Busy {
    fn begin(&self) {
        let mut count = self.count.lock();
        while *count >= CONCURRENT_MAX {
            self.changed.wait(&mut count);
        }
        *count += 1;
    }

    fn end(&self) {
        *self.count.lock() -= 1;
        self.changed.notify_all();
    }

    fn wait_for_all(&self) {
        let mut count = self.count.lock();
        while *count > 0 {
            self.changed.wait(&mut count);
        }
    }
}

/// Serves until the other side is gone and its requests are done. Layers are not unpacked to their end.
///
/// # Errors
/// Where the socket fails.
pub fn serve(runner: &Arc<Runner>) -> io::Result<()> {
    let busy = Arc::new(Busy::default());
    let mut buffer = Vec::new();
    let result = loop {
        match protocol::receive::<Call>(&runner.socket, &mut buffer) {
            Ok(Some(packet)) => {
                busy.begin();
                let (runner, done) = (Arc::clone(runner), Arc::clone(&busy));
                let id = packet.message.id;
                let spawned = thread::Builder::new()
                    .name("request".into())
                    .stack_size(STACK)
                    .spawn({
                        let runner = Arc::clone(&runner);
                        move || {
                            answer(&runner, packet);
                            done.end();
                        }
                    });
                if let Err(error) = spawned {
                    busy.end();
                    let failure = protocol::machine(format!("the runner cannot start a thread ({error})"));
                    reply(&runner, id, Err(failure));
                }
            }
            Ok(None) => break Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, "invalid request ignored");
            }
            Err(error) => break Err(error),
        }
    };
    runner.layers.stop();
    busy.wait_for_all();
    result
}

fn answer(runner: &Arc<Runner>, packet: Packet<Call>) {
    let id = packet.message.id;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        perform(runner, packet.message.request, packet.descriptors)
    }));
    let result = result.unwrap_or_else(|_| {
        Err(Failure::new(
            FailureKind::Internal,
            "the runner has a defect: a request made it panic (see its log)",
        ))
    });
    reply(runner, id, result);
}

fn reply(runner: &Runner, id: u64, result: Result<(Response, Vec<OwnedFd>), Failure>) {
    let (result, descriptors) = match result {
        Ok((answer, descriptors)) => (Ok(answer), descriptors),
        Err(failure) => (Err(failure), Vec::new()),
    };
    let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    if let Err(error) = protocol::send(&runner.socket, &Message::Reply { id, result }, &descriptors) {
        tracing::debug!(%error, "response could not be sent");
    }
}

fn perform(
    runner: &Arc<Runner>,
    request: Request,
    descriptors: Vec<OwnedFd>,
) -> Result<(Response, Vec<OwnedFd>), Failure> {
    let plain = |answer| Ok((answer, Vec::new()));
    let sandboxes = &runner.sandboxes;
    match request {
        Request::Hello { version } if version == VERSION => {
            plain(Response::Hello(Box::new(runner.hello.clone())))
        }
        Request::Hello { .. } => Err(Failure::new(
            FailureKind::Internal,
            "fsa was replaced by another version while it ran: restart fsa serve",
        )),
        Request::EnsureNetwork { sandbox } => {
            let network =
                sandboxes.exclusively(&sandbox.resource, |entry| runner.ensure_network(entry, &sandbox))?;
            plain(Response::Network {
                address: network.address,
            })
        }
        Request::StartContainer(start) => {
            let [listener, boot]: [OwnedFd; 2] = descriptors.try_into().map_err(|_| {
                Failure::new(
                    FailureKind::Internal,
                    "a sandbox was to be started without its two descriptors",
                )
            })?;
            check_descriptors(&listener, &boot)?;
            sandboxes.exclusively(&start.sandbox.resource, |entry| {
                runner.start(entry, &start, &listener, &boot)
            })?;
            plain(Response::Done)
        }
        Request::Stop {
            sandbox,
            grace_millis,
        } => {
            let grace = Duration::from_millis(grace_millis).min(GRACE_MAX);
            sandboxes.exclusively(&sandbox.resource, |entry| {
                runner.stop(entry, &sandbox.resource, grace)
            })?;
            plain(Response::Done)
        }
        Request::Destroy { sandbox } => {
            let discarded =
                sandboxes.exclusively(&sandbox.resource, |entry| runner.destroy(entry, &sandbox))?;
            sandboxes.forget(&sandbox.resource);
            for discarded in discarded {
                deferred_delete::delete(&discarded).map_err(|error| {
                    protocol::machine(format!("the sandbox's files could not all be removed ({error})"))
                })?;
            }
            plain(Response::Done)
        }
        Request::RemoveVolume { volume } => {
            let _lock = runner.volume_locks.take(volume);
            // Its server has files of the volume open.
            runner.databases.exclusively(volume, |entry| {
                runner.stop_database(entry, volume, protocol::StopWhen::Always)
            })?;
            runner.databases.forget(volume);
            runner
                .storage
                .delete(volume)
                .map_err(|error| protocol::machine(format!("the volume could not be removed ({error})")))?;
            plain(Response::Done)
        }
        Request::CreateSnapshot { sandbox, snapshot } => {
            let content =
                sandboxes.exclusively(&sandbox.resource, |_| runner.create_snapshot(&sandbox, snapshot));
            sandboxes.forget(&sandbox.resource);
            plain(Response::Snapshot(content?))
        }
        Request::DeleteSnapshot { volume, snapshot } => {
            runner.delete_snapshot(volume, snapshot)?;
            plain(Response::Done)
        }
        Request::RestoreSnapshot {
            sandbox,
            from,
            snapshot,
        } => {
            let restored = sandboxes.exclusively(&sandbox.resource, |_| {
                runner.restore_snapshot(&sandbox, from, snapshot)
            });
            sandboxes.forget(&sandbox.resource);
            restored?;
            plain(Response::Done)
        }
        Request::CloneSnapshot {
            from,
            snapshot,
            sandbox,
        } => {
            let copied = sandboxes.exclusively(&sandbox.resource, |_| {
                runner.clone_snapshot(from, snapshot, &sandbox)
            });
            sandboxes.forget(&sandbox.resource);
            copied?;
            plain(Response::Done)
        }
        Request::Snapshots { volume } => plain(Response::Snapshots {
            snapshots: runner.snapshots(volume)?,
        }),
        Request::SnapshotBytes { volume, snapshot } => plain(Response::SnapshotBytes {
            bytes: runner.storage.snapshot_bytes(volume, snapshot),
        }),
        Request::ChangedSince { sandbox, snapshot } => plain(Response::Changed {
            changed: runner.changed_since(&sandbox, snapshot)?,
        }),
        Request::ComparedFile {
            sandbox,
            snapshot,
            path,
        } => {
            let (exists, file) = runner.snapshot_file(&sandbox, snapshot, &path)?;
            Ok((Response::ComparedFile { exists }, file.into_iter().collect()))
        }
        Request::DiffSnapshot { sandbox, from, to } => {
            plain(Response::SnapshotDiff(runner.diff_snapshot(&sandbox, from, to)?))
        }
        Request::ListSnapshot { path, after } => {
            plain(Response::SnapshotFolder(runner.list_snapshot(&path, &after.0)?))
        }
        Request::OpenSnapshotFile { path } => {
            Ok((Response::SnapshotFile, vec![runner.open_snapshot_file(&path)?]))
        }
        Request::ImportVolume { sandbox } => {
            let [archive]: [OwnedFd; 1] = descriptors.try_into().map_err(|_| {
                Failure::new(
                    FailureKind::Internal,
                    "a volume was to be made without an archive",
                )
            })?;
            let imported =
                sandboxes.exclusively(&sandbox.resource, |_| runner.import_volume(&sandbox, archive));
            sandboxes.forget(&sandbox.resource);
            imported?;
            plain(Response::Done)
        }
        Request::Observe { sandbox } => plain(Response::Observed(Box::new(runner.observe(&sandbox)))),
        Request::Inventory => plain(Response::Inventory {
            sandboxes: runner.inventory()?,
        }),
        Request::Dial { sandbox } => {
            let (sockets, address) = runner.dial(&sandbox.resource)?;
            Ok((
                Response::Sockets {
                    address: Some(address),
                },
                sockets,
            ))
        }
        Request::BindDatabaseProxy { sandbox } => {
            let listener = sandboxes.exclusively(&sandbox.resource, |entry| {
                runner.bind_database_proxy(entry, &sandbox.resource)
            })?;
            Ok((Response::DatabaseProxy, vec![listener]))
        }
        Request::Usage { sandbox } => plain(Response::Usage(runner.usage(&sandbox))),
        Request::UnpackLayer { layer } => plain(Response::Unpacked(
            runner
                .layers
                .unpack(&layer)
                .map_err(|error| error.failure(&layer))?,
        )),
        Request::RemoveLayer { layer } => {
            if runner.used_layers()?.contains(&layer) {
                return Err(Failure::new(
                    FailureKind::Input,
                    "the layer is part of a sandbox that is still there",
                ));
            }
            runner
                .layers
                .remove(&layer)
                .map_err(|error| protocol::machine(format!("a layer could not be removed ({error})")))?;
            plain(Response::Done)
        }
        Request::Layers => {
            let layers = runner.layers.list().map_err(|error| {
                protocol::machine(format!("the folder of layers cannot be read ({error})"))
            })?;
            plain(Response::Layers { layers })
        }
        Request::MissingLayers { mut layers } => {
            layers.retain(|layer| !runner.layers.has(layer));
            plain(Response::Layers { layers })
        }
        Request::UsedLayers => plain(Response::Layers {
            layers: runner.used_layers()?.into_iter().collect(),
        }),
        Request::Storage => plain(Response::Storage(
            storage::status::of_folder(runner.layout.folder()).map_err(|error| {
                protocol::machine(format!("the storage pool cannot be inspected ({error})"))
            })?,
        )),
        Request::EnsureDatabase { .. }
        | Request::StartDatabase { .. }
        | Request::OpenDatabase { .. }
        | Request::StopDatabase { .. }
        | Request::RemoveDatabase { .. }
        | Request::CopyDatabase { .. }
        | Request::CopySnapshotDatabase { .. }
        | Request::ObserveDatabase { .. }
        | Request::Databases
        | Request::DatabaseDisk { .. }
        | Request::DatabaseLog { .. } => plain(database::requests::perform(runner, request)?),
        Request::Leftovers => plain(Response::Leftovers {
            what: runner.leftovers(),
        }),
    }
}

/// Accepts only a listening Unix socket and a regular file, so a sandbox gets nothing else.
fn check_descriptors(listener: &OwnedFd, boot: &OwnedFd) -> Result<(), Failure> {
    let listens = rustix::net::sockopt::socket_domain(listener)
        .is_ok_and(|domain| domain == rustix::net::AddressFamily::UNIX)
        && rustix::net::sockopt::socket_acceptconn(listener).unwrap_or(false);
    let is_file = rustix::fs::fstat(boot).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
    });
    if listens && is_file {
        Ok(())
    } else {
        Err(Failure::new(
            FailureKind::Internal,
            "a sandbox was to be given descriptors of a wrong kind",
        ))
    }
}
