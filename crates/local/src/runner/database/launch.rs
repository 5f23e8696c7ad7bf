//! Launch of a container with PostgreSQL: its mounts, its bundle, the runtime.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use fsa_model::{Failure, Resources};
use rustix::mount::UnmountFlags;

use super::{
    Slot,
    container::{self, Container},
    installation::in_container,
    settings,
    template::made,
};
use crate::{
    postgres::Installation,
    protocol::machine,
    runner::{Runner, container_spec::Limits, mounts, oci::Inherited, pidfd, state::Process},
};

/// A container of this kind.
pub struct Job<'a> {
    /// Of the container and its control group.
    pub name: &'a str,
    pub slot: &'a Slot,
    /// Has the folder `configuration`.
    pub bundle: &'a Path,
    pub data: &'a Path,
    /// The folder of the socket, and where the container has it.
    pub sockets: Option<(&'a Path, &'a str)>,
    pub installation: &'a Installation,
    pub command: Vec<String>,
    pub limits: Option<Resources>,
    pub output: &'a File,
}

impl Runner {
    /// Starts a container and returns its process 1.
    pub(super) fn run_database_container(&self, job: &Job<'_>) -> Result<(Process, OwnedFd), Failure> {
        let failed = |error: io::Error| made("the database server's container", &error);
        let here = self.layout.scratch().join(job.name);
        let result = (|| {
            let ids = self.privilege_mode.server_ids(job.slot.ids());
            let user_namespace = self
                .privilege_mode
                .user_namespace(ids, job.name)
                .map_err(failed)?;
            let read_only = self.mount_server(job, &here, &user_namespace).map_err(failed)?;
            let joins = self.runtime.joins_user_namespace();
            let namespace = format!("/proc/{}/fd/{}", std::process::id(), user_namespace.as_raw_fd());
            let cgroup = self.cgroups.any().then(|| self.cgroups.path(job.name));
            let config = container::config(&Container {
                mounts: &here,
                command: job.command.clone(),
                user_namespace: joins.then_some(Path::new(&namespace)),
                open_files: self.open_files,
                ids: &self.privilege_mode.parts(ids),
                read_only: &read_only,
                sockets: job.sockets.map(|(_, target)| target),
                cgroup: cgroup.as_deref(),
                limits: job
                    .limits
                    .as_ref()
                    .map(|limits| Limits::of(limits, &self.cgroups))
                    .unwrap_or_default(),
            })
            .map_err(io::Error::other)
            .map_err(failed)?;
            let text = serde_json::to_vec(&config)
                .map_err(io::Error::other)
                .map_err(failed)?;
            fs::write(job.bundle.join("config.json"), text).map_err(failed)?;
            let pid = self.runtime.start(
                job.name,
                job.bundle,
                &Inherited {
                    open_files: joins.then_some(self.open_files),
                    output: Some(job.output),
                    ..Inherited::default()
                },
            )?;
            let pidfd = pidfd::open(pid);
            let process = Process::now(pid);
            pidfd
                .zip(process)
                .map(|(pidfd, process)| (process, pidfd))
                .ok_or_else(|| {
                    machine("the database server ended as soon as it was started; its log has the reason")
                })
        })();
        unmount(&here);
        result
    }

    /// Mounts the parts of a server's file system below `here`; returns the folders of the machine
    /// that it sees read-only: source and target.
    fn mount_server(
        &self,
        job: &Job<'_>,
        here: &Path,
        user_namespace: &OwnedFd,
    ) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        fs::create_dir_all(here)?;
        let machine_view = self.privilege_mode.machine_view();
        let attach = |source: &Path, target: &Path, view, read_only| {
            mounts::copy(source, view, read_only).and_then(|tree| mounts::attach(&tree, target))
        };
        let tree = self.layout.base_rootfs().join(&self.base_rootfs.database);
        attach(&tree, &here.join("root"), &machine_view, true)?;
        attach(
            &job.bundle.join("configuration"),
            &here.join("configuration"),
            &machine_view,
            true,
        )?;
        let own = self.privilege_mode.view(user_namespace)?;
        attach(job.data, &here.join("data"), &own, false)?;
        if let Some((sockets, _)) = job.sockets {
            attach(sockets, &here.join("sockets"), &own, false)?;
        }
        let mut read_only = Vec::new();
        for folder in &self.base_rootfs.machine {
            let target = here
                .join("machine")
                .join(folder.strip_prefix("/").unwrap_or(folder));
            attach(folder, &target, &machine_view, true)?;
            read_only.push((target, folder.clone()));
        }
        if let Some(other) = in_container(job.installation).1 {
            let target = here.join("postgresql");
            attach(&other, &target, &machine_view, true)?;
            read_only.push((target, settings::OTHER_INSTALLATION.into()));
        }
        Ok(read_only)
    }
}

/// Unmounts what a start mounted for the container, which has its own copies by then.
fn unmount(here: &Path) {
    let names = ["root", "configuration", "data", "sockets", "postgresql"].map(|name| here.join(name));
    let machine = fs::read_dir(here.join("machine"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for path in names.into_iter().chain(machine) {
        let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        // Not remove_dir_all: it would delete the content of anything that is still mounted.
        let _ = fs::remove_dir(&path);
    }
    let _ = fs::remove_dir(here.join("machine"));
    let _ = fs::remove_dir(here);
}

pub(super) fn no_ids() -> Failure {
    machine("all ranges of user ids for database servers are in use")
}
