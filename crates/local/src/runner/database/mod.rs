//! Database servers: one PostgreSQL server per volume, in a container beside the sandbox's.
//!
//! A server has ids, a control group and a network namespace that no other container has, no
//! capability, and of the machine only `/usr`. Its data folder is in the volume. Its socket is in a
//! folder that belongs to root once the server runs, so nothing in the server can put another file
//! in its place; `fsa serve` and the database proxy connect to it by name.
//!
//! The socket has one of two names. Under [`CLOSED`] only `fsa serve` uses it: to set the server up,
//! and while a stop checks that no client is connected. Under [`OPEN`] clients use it.

pub mod compared;
mod connections;
pub mod container;
pub mod copy;
mod exit;
pub mod installation;
mod launch;
pub mod log;
mod observe;
mod ready;
pub mod record;
pub mod requests;
pub mod settings;
mod start;
pub mod state;
mod stop;
mod template;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt as _, chown},
    },
    sync::Arc,
};

pub use compared::COMPARED;
use fsa_model::VolumeId;
use parking_lot::Mutex;
pub use template::MARK;

use super::{RunnerConfig, layout::Layout, privilege_mode::PrivilegeMode, state::Process, userns::IdRange};

/// The server's socket, open to clients.
pub const OPEN: &str = ".s.PGSQL.5432";
/// The server's socket, closed to clients. libpq's form, so that it is found by a port number.
pub const CLOSED: &str = ".s.PGSQL.1";
/// The user in a server's container, and the owner of its files on disk.
pub const POSTGRES_ID: u32 = 999;
/// The bootstrap superuser. Who reaches the socket may sign in as it: the folders above belong to
/// root and `fsa serve`, and the database proxy refuses the name.
pub const SUPERUSER: &str = crate::postgres::SUPERUSER;

/// The first id of the servers' ranges. Those of sandboxes end below it.
const UID_BASE: u32 = 0x8000_0000;
/// Ranges of 65,536 ids up to the highest id.
const SLOTS: u32 = 0x7fff;

/// One volume's server.
#[derive(Default)]
pub struct Entry {
    /// Held during a change of the server. `true` once the entry was removed from the map: then the
    /// caller must get the new entry.
    work: Mutex<bool>,
    /// Held only briefly.
    pub running: Mutex<Option<Arc<RunningServer>>>,
}

/// A running server process.
pub struct RunningServer {
    pub process: Process,
    pub pidfd: OwnedFd,
    /// Its memory limit in MiB.
    pub memory_limit_mib: u32,
    /// The ids of its user namespace.
    pub slot: Slot,
}

/// All servers of the data folder.
#[derive(Default)]
pub struct DatabaseServers {
    entries: Mutex<HashMap<VolumeId, Arc<Entry>>>,
    slots: Arc<Mutex<BTreeSet<u32>>>,
    /// Held while the template is made.
    template: Mutex<()>,
}

impl DatabaseServers {
    /// Runs `work` with the server's mutex held.
    pub fn exclusively<T>(&self, volume: VolumeId, work: impl FnOnce(&Entry) -> T) -> T {
        loop {
            let entry = Arc::clone(self.entries.lock().entry(volume).or_default());
            let gone = entry.work.lock();
            if !*gone {
                let answer = work(&entry);
                drop(gone);
                return answer;
            }
        }
    }

    /// The entry, without waiting for its mutex.
    #[must_use]
    pub fn get(&self, volume: VolumeId) -> Option<Arc<Entry>> {
        self.entries.lock().get(&volume).cloned()
    }

    /// The running server, without waiting for its mutex.
    #[must_use]
    pub fn running(&self, volume: VolumeId) -> Option<Arc<RunningServer>> {
        self.get(volume).and_then(|entry| entry.running.lock().clone())
    }

    /// Removes a server that does not run from the map.
    pub fn forget(&self, volume: VolumeId) {
        let Some(entry) = self.get(volume) else {
            return;
        };
        let mut gone = entry.work.lock();
        if entry.running.lock().is_none() && !*gone {
            *gone = true;
            self.entries.lock().remove(&volume);
        }
    }

    /// Claims a range of ids that no other server of this data folder has.
    fn slot(&self) -> Option<Slot> {
        let mut used = self.slots.lock();
        let slot = (0..SLOTS).find(|slot| !used.contains(slot))?;
        used.insert(slot);
        Some(Slot {
            slot,
            used: Arc::clone(&self.slots),
        })
    }

    /// Claims the range of a server that runs already.
    fn adopt_slot(&self, slot: u32) -> Slot {
        self.slots.lock().insert(slot);
        Slot {
            slot,
            used: Arc::clone(&self.slots),
        }
    }
}

/// A claimed range of ids, free again when this is dropped.
pub struct Slot {
    slot: u32,
    used: Arc<Mutex<BTreeSet<u32>>>,
}

impl Slot {
    /// Its ids, seen from the machine.
    fn ids(&self) -> IdRange {
        IdRange {
            first: UID_BASE + self.slot * super::userns::COUNT,
            count: super::userns::COUNT,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.used.lock().remove(&self.slot);
    }
}

/// Lets `fsa serve` and its group enter the folder of sockets, and nobody else.
///
/// # Errors
/// The file system's.
pub fn share_sockets(
    layout: &Layout,
    config: &RunnerConfig,
    privilege_mode: PrivilegeMode,
) -> io::Result<()> {
    if privilege_mode == PrivilegeMode::Root {
        chown(layout.sockets(), Some(0), Some(config.serve_gid))?;
        fs::set_permissions(layout.sockets(), fs::Permissions::from_mode(0o710))?;
    }
    Ok(())
}

/// The name of a server's container and control group.
#[must_use]
pub fn container_name(volume: VolumeId) -> String {
    format!("database-{volume}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ids_is_free_again_when_its_server_has_ended() {
        let servers = DatabaseServers::default();
        let (first, second) = (servers.slot().unwrap(), servers.slot().unwrap());
        assert_ne!(first.ids(), second.ids());
        let ids = first.ids();
        drop(first);
        assert_eq!(servers.slot().unwrap().ids(), ids);
    }

    #[test]
    fn the_ids_of_servers_are_those_of_no_sandbox() {
        let last = IdRange::of_slot(0x1000_0000, super::super::network::SLOTS);
        assert!(last.first + (last.count - 1) < UID_BASE);
        assert!(
            UID_BASE
                .checked_add(SLOTS * super::super::userns::COUNT)
                .is_some()
        );
    }
}
