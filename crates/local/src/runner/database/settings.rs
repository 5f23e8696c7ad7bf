//! Settings of a database server by the project's size: limits of its container, `postgresql.conf`,
//! `pg_hba.conf`, command line. Pure.
//!
//! The project's role is a superuser and may change settings with `ALTER SYSTEM`. What keeps the
//! server reachable is on the command line, which takes precedence.

use std::path::Path;

use fsa_model::{Resources, VolumeId};

use super::SUPERUSER;

/// Where the container has the data folder, the folder of its socket's folder, and its settings.
pub const DATA: &str = "/database";
pub const SOCKETS: &str = "/run/postgresql";
pub const CONFIGURATION: &str = "/etc/postgresql";
/// Where it has an installation of PostgreSQL that is not below `/usr`.
pub const OTHER_INSTALLATION: &str = "/postgresql";

/// Part of the project's memory that its server may use, in MiB at least and at most.
const MEMORY_MIB: (u32, u32) = (128, 4096);
/// Clients, and what is left for `fsa serve` and PostgreSQL's own processes. A server of the
/// smallest size has memory for fewer than the database proxy admits.
const CONNECTIONS: u32 = 64;
const CONNECTIONS_SMALL: u32 = 20;
const CONNECTIONS_RESERVED: u32 = 5;
/// Processes beside one per connection: PostgreSQL's own, and programs of `COPY … PROGRAM`.
const PROCESSES: u32 = 64;

/// Where a server binds its socket: with the volume's id, by which its connections are found
/// ([`super::connections`]).
#[must_use]
pub fn sockets(volume: VolumeId) -> String {
    format!("{SOCKETS}/{volume}")
}

/// The limits of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSize {
    /// Of the container.
    pub resources: Resources,
    pub shared_buffers_mib: u32,
    pub max_connections: u32,
}

/// The limits of the server of a project with these.
#[must_use]
pub fn size(project: &Resources) -> ServerSize {
    let memory_mib = (project.memory_limit_mib / 2).clamp(MEMORY_MIB.0, MEMORY_MIB.1);
    let clients = if memory_mib < 256 {
        CONNECTIONS_SMALL
    } else {
        CONNECTIONS
    };
    let max_connections = clients + CONNECTIONS_RESERVED;
    ServerSize {
        resources: Resources {
            memory_limit_mib: memory_mib,
            pids_limit: max_connections + PROCESSES,
            ..*project
        },
        shared_buffers_mib: (memory_mib / 8).clamp(16, 256),
        max_connections,
    }
}

/// `postgresql.conf`.
#[must_use]
pub fn configuration(size: &ServerSize) -> String {
    // Small segments: a new server has 1 MiB of WAL, and an idle one keeps a few.
    format!(
        "# Written by FullStack Agent before each start. Change settings with ALTER SYSTEM.\n\
         max_connections = {connections}\n\
         shared_buffers = '{buffers}MB'\n\
         min_wal_size = '8MB'\n\
         max_wal_size = '256MB'\n\
         wal_level = 'minimal'\n\
         max_wal_senders = 0\n\
         max_replication_slots = 0\n\
         password_encryption = 'scram-sha-256'\n\
         cluster_name = ''\n\
         update_process_title = off\n\
         jit = off\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         log_destination = 'stderr'\n\
         logging_collector = off\n\
         log_checkpoints = off\n\
         log_line_prefix = '%m '\n\
         max_worker_processes = 4\n\
         max_parallel_workers_per_gather = 1\n\
         autovacuum_max_workers = 2\n\
         huge_pages = off\n\
         dynamic_shared_memory_type = 'posix'\n\
         authentication_timeout = '15s'\n\
         client_connection_check_interval = '10s'\n\
         lc_messages = 'C'\n",
        connections = size.max_connections,
        buffers = size.shared_buffers_mib,
    )
}

/// `pg_hba.conf`. A role needs its password; the bootstrap superuser is admitted by the folders of
/// the socket (see [`SUPERUSER`]).
#[must_use]
pub fn host_based() -> String {
    format!(
        "# Written by FullStack Agent before each start.\n\
         local all {SUPERUSER} trust\n\
         local all all scram-sha-256\n"
    )
}

/// The command line of the server. `bin` is the folder of PostgreSQL's programs in the container.
#[must_use]
pub fn command(bin: &Path, volume: VolumeId) -> Vec<String> {
    let mut command = vec![
        bin.join("postgres").display().to_string(),
        "-D".to_owned(),
        DATA.to_owned(),
        "-k".to_owned(),
        sockets(volume),
    ];
    for (name, value) in [
        ("config_file", format!("{CONFIGURATION}/postgresql.conf")),
        ("hba_file", format!("{CONFIGURATION}/pg_hba.conf")),
        ("listen_addresses", String::new()),
        ("port", "5432".to_owned()),
        ("unix_socket_permissions", "0777".to_owned()),
    ] {
        command.push("-c".to_owned());
        command.push(format!("{name}={value}"));
    }
    command
}

#[cfg(test)]
mod tests {
    use fsa_model::Size;

    use super::*;

    #[test]
    fn a_server_of_each_size_fits_into_its_memory() {
        for project in Size::ALL {
            let size = size(&project.resources());
            // A connection costs some 2 MiB beside the shared buffers.
            let needed = size.shared_buffers_mib + 2 * size.max_connections;
            assert!(
                needed <= size.resources.memory_limit_mib,
                "{project:?}: {needed} MiB"
            );
            assert!(size.resources.memory_limit_mib <= project.resources().memory_limit_mib);
            assert!(size.resources.pids_limit > size.max_connections);
        }
    }

    #[test]
    fn what_keeps_a_server_reachable_is_on_the_command_line() {
        let command = command(Path::new("/usr/lib/postgresql/15/bin"), VolumeId::generate());
        for part in [
            "listen_addresses=",
            "port=5432",
            "hba_file=/etc/postgresql/pg_hba.conf",
        ] {
            assert!(command.iter().any(|argument| argument == part), "{part}");
        }
    }
}
