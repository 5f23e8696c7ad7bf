//! Control sockets of sandboxes, `run/s/<resource>.sock`: made and connected to here, passed to
//! sandboxd through the runner. They outlive `fsa serve` with the sandboxes.
//!
//! A Unix socket's path has at most 107 bytes (unix(7)), which the paths of a data folder and a resource's name may
//! exceed, so each is opened through a descriptor of the folder.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use fsa_model::ResourceName;
use rustix::fs::{AtFlags, Mode, OFlags};
use tokio::net::UnixStream;

/// The folder of control sockets.
pub struct Sockets(OwnedFd);

/// A listening socket under its temporary name, to which nothing connects yet.
pub struct NewSocket {
    sockets: Arc<Sockets>,
    resource: ResourceName,
    pub listener: OwnedFd,
    kept: bool,
}

impl Sockets {
    /// # Errors
    /// The folder cannot be made or opened.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let folder = data_dir.join("run/s");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(&folder, flags, Mode::empty())?))
    }

    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }

    /// Creates a socket for a sandbox before its start. [`NewSocket::keep`] replaces an earlier one.
    ///
    /// # Errors
    /// The folder's.
    pub fn make(self: &Arc<Self>, resource: &ResourceName) -> io::Result<NewSocket> {
        let new = new_name(resource);
        self.unlink(&new);
        let path = self.path(&new);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(NewSocket {
            sockets: Arc::clone(self),
            resource: resource.clone(),
            listener: listener.into(),
            kept: false,
        })
    }

    /// Connects to sandboxd.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` if the sandbox does not run.
    pub async fn connect(&self, resource: &ResourceName) -> io::Result<UnixStream> {
        UnixStream::connect(self.path(&name(resource))).await
    }

    /// Whether a running sandbox can be reached under its name. A server that was killed between
    /// a start and [`NewSocket::keep`] left the socket under its temporary name: it is renamed.
    pub async fn settle(&self, resource: &ResourceName) -> bool {
        if self.connect(resource).await.is_ok() {
            return true;
        }
        let listens = UnixStream::connect(self.path(&new_name(resource))).await.is_ok();
        listens && rustix::fs::renameat(&self.0, new_name(resource), &self.0, name(resource)).is_ok()
    }

    /// Removes the socket of a sandbox that was destroyed.
    pub fn remove(&self, resource: &ResourceName) {
        self.unlink(&name(resource));
        self.unlink(&new_name(resource));
    }

    fn unlink(&self, name: &str) {
        // A missing socket is not an error.
        let _ = rustix::fs::unlinkat(&self.0, name, AtFlags::empty());
    }
}

impl NewSocket {
    /// Renames it to the sandbox's socket.
    ///
    /// # Errors
    /// The folder's.
    pub fn keep(mut self) -> io::Result<()> {
        let folder = &self.sockets.0;
        rustix::fs::renameat(folder, new_name(&self.resource), folder, name(&self.resource))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for NewSocket {
    fn drop(&mut self) {
        if !self.kept {
            self.sockets.unlink(&new_name(&self.resource));
        }
    }
}

fn name(resource: &ResourceName) -> String {
    format!("{resource}.sock")
}

fn new_name(resource: &ResourceName) -> String {
    format!("{resource}.new")
}

#[cfg(test)]
mod tests {
    use fsa_model::ProjectName;

    use super::*;

    fn resource() -> ResourceName {
        ResourceName::generate(&ProjectName::parse(&"a".repeat(40)).unwrap())
    }

    #[tokio::test]
    async fn a_socket_below_a_long_folder_can_be_made_and_connected_to() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a-folder-with-a-long-name/".repeat(6));
        let sockets = Arc::new(Sockets::open(&data).unwrap());
        let resource = resource();
        let new = sockets.make(&resource).unwrap();
        let listener = new.listener.try_clone().unwrap();
        new.keep().unwrap();

        sockets.connect(&resource).await.unwrap();

        UnixListener::from(listener).accept().unwrap();
    }

    #[tokio::test]
    async fn a_start_that_fails_leaves_the_earlier_socket_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = Arc::new(Sockets::open(folder.path()).unwrap());
        let resource = resource();
        let first = sockets.make(&resource).unwrap();
        let listener = first.listener.try_clone().unwrap();
        first.keep().unwrap();

        drop(sockets.make(&resource).unwrap());

        sockets.connect(&resource).await.unwrap();
        drop(listener);
        assert_eq!(fs::read_dir(folder.path().join("run/s")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_destroyed_sandbox_has_no_socket() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = Arc::new(Sockets::open(folder.path()).unwrap());
        let resource = resource();
        sockets.make(&resource).unwrap().keep().unwrap();

        sockets.remove(&resource);

        assert_eq!(
            sockets.connect(&resource).await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[tokio::test]
    async fn a_start_that_was_interrupted_gets_its_socket_back() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = Arc::new(Sockets::open(folder.path()).unwrap());
        let resource = resource();
        assert!(!sockets.settle(&resource).await);
        let listener = UnixListener::bind(sockets.path(&new_name(&resource))).unwrap();

        assert!(sockets.settle(&resource).await);

        sockets.connect(&resource).await.unwrap();
        drop(listener);
        assert!(!sockets.settle(&resource).await);
    }
}
