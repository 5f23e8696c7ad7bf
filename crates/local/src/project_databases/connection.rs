//! Connections to a volume's server as its bootstrap superuser.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use fsa_model::VolumeId;
use rustix::fs::{CWD, Mode, OFlags};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::runner::database::SUPERUSER;

/// For a running server to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// libpq's port numbers of the two names of a socket: closed to clients, and open.
const PORTS: [u16; 2] = [1, 5432];

/// The folder of the servers' sockets.
pub struct Sockets(OwnedFd);

impl Sockets {
    /// # Errors
    /// The folder cannot be opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, folder, flags, Mode::empty())?))
    }

    /// Connects to a database of a server that runs.
    ///
    /// # Errors
    /// It does not run, or refuses.
    pub async fn connect(&self, volume: VolumeId, database: &str) -> sqlx::Result<PgConnection> {
        let mut failure = sqlx::Error::WorkerCrashed;
        for port in PORTS {
            let options = PgConnectOptions::new_without_pgpass()
                .socket(format!("/proc/self/fd/{}/{volume}", self.0.as_raw_fd()))
                .port(port)
                .username(SUPERUSER)
                .database(database)
                .ssl_mode(PgSslMode::Disable)
                .application_name("fsa");
            match tokio::time::timeout(TIMEOUT, PgConnection::connect_with(&options)).await {
                Ok(Err(sqlx::Error::Io(error))) if port == PORTS[0] => failure = sqlx::Error::Io(error),
                Ok(connected) => return connected,
                Err(_) => failure = sqlx::Error::PoolTimedOut,
            }
        }
        Err(failure)
    }
}
