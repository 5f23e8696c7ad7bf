//! Registry of sandboxes in the runner: their live state, and a mutex for changes of each.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use fsa_model::{Failure, FailureKind, ResourceName, SandboxRef, sandboxd::Usage};
use parking_lot::Mutex;

use super::{
    Runner, netns,
    network::SandboxNetwork,
    state::{BOOT, Process, State},
};
use crate::{
    images::DiffId,
    protocol::{ObservedSandbox, machine},
};

/// Address of the database for programs in a sandbox.
const DATABASE_PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5432);

/// One sandbox.
#[derive(Default)]
pub struct Entry {
    /// Held during a change of the sandbox. `true` once the entry was removed from the map: then
    /// the caller must get the new entry.
    pub work: Mutex<bool>,
    /// Held only briefly.
    pub live: Mutex<LiveState>,
}

/// Resources that the runner holds for a live sandbox.
#[derive(Default)]
pub struct LiveState {
    /// The sandbox of `network`.
    pub owner: Option<SandboxRef>,
    pub network: Option<Arc<SandboxNetwork>>,
    /// The socket from which the database proxy accepts; kept for a restarted proxy.
    pub database_proxy: Option<OwnedFd>,
    pub running: Option<Arc<Running>>,
}

/// A running process 1.
pub struct Running {
    pub process: Process,
    pub pidfd: OwnedFd,
    pub sandbox: SandboxRef,
    pub memory_limit_mib: u32,
}

/// All sandboxes.
#[derive(Default)]
pub struct Sandboxes(Mutex<HashMap<ResourceName, Arc<Entry>>>);

impl Sandboxes {
    /// Runs `work` with the sandbox's mutex held.
    pub fn exclusively<T>(&self, resource: &ResourceName, work: impl FnOnce(&Entry) -> T) -> T {
        loop {
            let entry = Arc::clone(self.0.lock().entry(resource.clone()).or_default());
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
    pub fn get(&self, resource: &ResourceName) -> Option<Arc<Entry>> {
        self.0.lock().get(resource).cloned()
    }

    /// Removes a destroyed sandbox from the map. Waits for its mutex, and keeps the entry where
    /// the sandbox was started again.
    pub fn forget(&self, resource: &ResourceName) {
        let Some(entry) = self.get(resource) else {
            return;
        };
        let mut gone = entry.work.lock();
        let live = entry.live.lock();
        if live.network.is_none() && live.running.is_none() && !*gone {
            *gone = true;
            self.0.lock().remove(resource);
        }
    }

    /// Sandboxes that have a network.
    fn owners(&self) -> Vec<SandboxRef> {
        let entries: Vec<_> = self.0.lock().values().cloned().collect();
        entries
            .iter()
            .filter_map(|entry| {
                let live = entry.live.lock();
                live.owner.clone().filter(|_| live.network.is_some())
            })
            .collect()
    }

    /// Number of sandboxes that run.
    #[must_use]
    pub fn running(&self) -> usize {
        let entries: Vec<_> = self.0.lock().values().cloned().collect();
        entries
            .iter()
            .filter(|entry| entry.live.lock().running.is_some())
            .count()
    }
}

impl Runner {
    /// The observed state of a sandbox. Changes nothing and waits for no mutex.
    #[must_use]
    pub fn observe(&self, sandbox: &SandboxRef) -> ObservedSandbox {
        let state = State::read(&self.layout.state(&sandbox.resource));
        let mut observed = ObservedSandbox {
            exists: state.is_some(),
            volume: self.storage.exists(sandbox.volume),
            ..ObservedSandbox::default()
        };
        if let Some(entry) = self.sandboxes.get(&sandbox.resource) {
            let live = entry.live.lock();
            let ended = live
                .running
                .as_ref()
                .is_some_and(|running| super::pidfd::ended(&running.pidfd));
            observed.running = live.running.is_some() && !ended;
            observed.address = live.network.as_ref().map(|network| network.address);
            let network = live.network.clone();
            drop(live);
            // That of a container that has just ended is about to be removed.
            observed.network = !ended && network.is_some_and(|network| self.networks.exists(&network));
        }
        if let Some(state) = state {
            observed.digest = Some(state.digest);
            observed.database_proxy = state.database_proxy;
            observed.ended = if observed.running { None } else { state.ended };
        }
        observed
    }

    /// Every sandbox that has files here, or a network.
    ///
    /// # Errors
    /// The folder's.
    pub fn inventory(&self) -> Result<Vec<SandboxRef>, Failure> {
        let mut found: Vec<_> = self.states()?.into_iter().map(|state| state.sandbox).collect();
        let known: BTreeSet<_> = found.iter().map(|sandbox| sandbox.resource.clone()).collect();
        let with_network = self.sandboxes.owners();
        found.extend(
            with_network
                .into_iter()
                .filter(|owner| !known.contains(&owner.resource)),
        );
        Ok(found)
    }

    /// Every layer of a sandbox's root file system.
    ///
    /// # Errors
    /// The folder's.
    pub fn used_layers(&self) -> Result<BTreeSet<DiffId>, Failure> {
        Ok(self
            .states()?
            .into_iter()
            .flat_map(|state| state.layers)
            .collect())
    }

    fn states(&self) -> Result<Vec<State>, Failure> {
        let entries = fs::read_dir(self.layout.sandboxes())
            .map_err(|error| machine(format!("the folder of sandboxes cannot be read ({error})")))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| State::read(&entry.path().join("state.json")))
            .collect())
    }

    /// Creates the network of a sandbox if it is missing.
    ///
    /// # Errors
    /// The kernel's, or nft's.
    pub fn ensure_network(
        &self,
        entry: &Entry,
        sandbox: &SandboxRef,
    ) -> Result<Arc<SandboxNetwork>, Failure> {
        self.ensure_firewall()?;
        let old = entry.live.lock().network.clone();
        if let Some(network) = &old
            && self.networks.exists(network)
        {
            return Ok(Arc::clone(network));
        }
        if old.is_some() && entry.live.lock().running.is_some() {
            return Err(Failure::new(
                FailureKind::Transient,
                "the sandbox's network interface is gone; it comes back with a restart of the sandbox",
            ));
        }
        let network = Arc::new(self.networks.make(&sandbox.resource)?);
        let mut live = entry.live.lock();
        live.database_proxy = None;
        live.network = Some(Arc::clone(&network));
        live.owner = Some(sandbox.clone());
        Ok(network)
    }

    /// Removes the network of a sandbox that does not run.
    pub fn drop_network(&self, entry: &Entry) {
        let (network, database_proxy) = {
            let mut live = entry.live.lock();
            (live.network.take(), live.database_proxy.take())
        };
        drop(database_proxy);
        if let Some(network) = network {
            self.networks.remove(&network);
        }
    }

    /// Sockets for a connection into the sandbox. The calling thread is in the sandbox's network
    /// afterwards, and must end soon.
    ///
    /// # Errors
    /// The sandbox has no network.
    pub fn dial(&self, resource: &ResourceName) -> Result<(Vec<OwnedFd>, Ipv4Addr), Failure> {
        let network = self.network(resource)?;
        netns::enter(&network.namespace)
            .and_then(|()| netns::sockets())
            .map(|sockets| (sockets, network.address))
            .map_err(|error| {
                machine(format!(
                    "sockets for a connection into the sandbox could not be created ({error})"
                ))
            })
    }

    /// The socket from which the database proxy accepts in this sandbox. The calling thread is in
    /// the sandbox's network afterwards, and must end soon.
    ///
    /// # Errors
    /// The sandbox has no network, or listens on the database's port itself.
    pub fn bind_database_proxy(&self, entry: &Entry, resource: &ResourceName) -> Result<OwnedFd, Failure> {
        let failed = |error: io::Error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return Failure::new(
                    FailureKind::Input,
                    "a program in the sandbox listens on 127.0.0.1:5432, where the project's database belongs; \
                     give it another port and restart the sandbox",
                );
            }
            machine(format!(
                "the socket of the project's database could not be created ({error})"
            ))
        };
        let network = self.network(resource)?;
        let mut live = entry.live.lock();
        let listener = match live.database_proxy.take() {
            Some(listener) => listener,
            None => netns::enter(&network.namespace)
                .and_then(|()| netns::listener(DATABASE_PROXY))
                .map_err(failed)?,
        };
        let copy = listener.try_clone().map_err(failed)?;
        live.database_proxy = Some(listener);
        Ok(copy)
    }

    fn network(&self, resource: &ResourceName) -> Result<Arc<SandboxNetwork>, Failure> {
        self.sandboxes
            .get(resource)
            .and_then(|entry| entry.live.lock().network.clone())
            .ok_or_else(|| Failure::new(FailureKind::Transient, "the sandbox does not run"))
    }

    /// Resource usage of the sandbox.
    #[must_use]
    pub fn usage(&self, sandbox: &SandboxRef) -> Usage {
        let found = self.cgroups.usage(sandbox.resource.as_str());
        let disk = self.storage.usage(sandbox);
        Usage {
            cpu_microseconds: found.cpu_microseconds,
            memory_bytes: found.memory_bytes,
            memory_limit_bytes: found.memory_limit_bytes,
            pids: found.pids,
            disk_bytes: disk.bytes,
            disk_limit_bytes: disk.limit_bytes.unwrap_or(0),
        }
    }

    /// Adopts the sandboxes that run already, and cleans up after a runner that was killed.
    ///
    /// # Errors
    /// The folder's.
    pub fn adopt_running(self: &Arc<Self>) -> Result<(), Failure> {
        for sandbox in self.inventory()? {
            self.sandboxes.exclusively(&sandbox.resource, |entry| {
                if let Some(state) = State::read(&self.layout.state(&sandbox.resource)) {
                    self.adopt_one(entry, state);
                }
            });
        }
        self.networks.end_all_but(|name| {
            ResourceName::parse(name).is_ok_and(|name| {
                self.sandboxes
                    .get(&name)
                    .is_some_and(|entry| entry.live.lock().network.is_some())
            })
        });
        Ok(())
    }

    fn adopt_one(self: &Arc<Self>, entry: &Entry, state: State) {
        let name = state.sandbox.resource.clone();
        let Some(run) = &state.run else {
            return;
        };
        let process = run.process.filter(|_| run.boot == *BOOT);
        let running = process.and_then(|process| {
            let running = Running {
                process,
                pidfd: super::pidfd::open(process.pid)?,
                sandbox: state.sandbox.clone(),
                memory_limit_mib: state.memory_limit_mib,
            };
            // Checked again: the descriptor could be of a later process with the same id.
            let namespace = fs::File::open(format!("/proc/{}/ns/net", process.pid)).ok()?;
            (Process::now(process.pid) == Some(process)).then_some((running, namespace))
        });
        match running {
            Some((running, namespace)) => {
                let running = Arc::new(running);
                let network = self.networks.adopt(run.slot, namespace.into(), &name);
                {
                    let mut live = entry.live.lock();
                    live.network = Some(Arc::new(network));
                    live.running = Some(Arc::clone(&running));
                }
                self.watch_process(&name, &running);
                tracing::info!(sandbox = %name, pid = running.process.pid, "found a running sandbox");
            }
            None => {
                self.kill_orphans(&name, run.boot == *BOOT);
                self.record_exit(entry, &name, crate::protocol::ExitCause::Unseen);
            }
        }
    }

    /// Kills processes of a start that was interrupted.
    pub fn kill_orphans(&self, name: &ResourceName, this_boot: bool) {
        if !this_boot {
            self.runtime.forget(name.as_str());
            return;
        }
        for pid in self.cgroups.processes(name.as_str()) {
            let Some(pidfd) = super::pidfd::open(pid) else {
                continue;
            };
            // Still in the group, so the descriptor is of a process of the sandbox.
            if self.cgroups.processes(name.as_str()).contains(&pid) {
                super::pidfd::kill(pidfd.as_fd());
                let _ = super::pidfd::readable(pidfd.as_fd(), std::time::Duration::from_secs(5));
            }
        }
        self.runtime.delete(name.as_str());
    }
}
