//! Configuration files of the clusters, as pure functions. Other settings have PostgreSQL's
//! defaults.
//!
//! `fsa.conf` is rewritten before each start; an operator's own settings go into `local.conf` in
//! the same folder, which is read after it.

use std::path::Path;

use super::{ClusterKind, SUPERUSER};

/// What is appended to PostgreSQL's own file, once.
pub const INCLUDES: &str = "\n# Added by FullStack Agent: its settings, then your own.\n\
    include = 'fsa.conf'\ninclude_if_exists = 'local.conf'\n";

/// `fsa.conf`.
pub fn settings(kind: ClusterKind, socket_folder: &Path, logs: &Path) -> String {
    let name = kind.name();
    let socket_folder = quoted(&socket_folder.display().to_string());
    let logs = quoted(&logs.display().to_string());
    let common = format!(
        "# Written by FullStack Agent before each start; put your own settings into local.conf.\n\
         listen_addresses = ''\n\
         port = 5432\n\
         unix_socket_directories = {socket_folder}\n\
         unix_socket_permissions = 0700\n\
         password_encryption = 'scram-sha-256'\n\
         cluster_name = 'fsa-{name}'\n\
         update_process_title = off\n\
         jit = off\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         max_wal_senders = 0\n\
         max_replication_slots = 0\n\
         wal_buffers = '16MB'\n\
         logging_collector = on\n\
         log_directory = {logs}\n\
         log_filename = '{name}-%a.log'\n\
         log_file_mode = 0600\n\
         log_rotation_age = '1d'\n\
         log_rotation_size = 0\n\
         log_truncate_on_rotation = on\n\
         log_checkpoints = off\n\
         log_parameter_max_length = 0\n\
         log_parameter_max_length_on_error = 0\n"
    );
    let own = match kind {
        ClusterKind::Control => {
            "max_connections = 60\n\
             shared_buffers = '32MB'\n\
             max_worker_processes = 2\n\
             max_parallel_workers_per_gather = 0\n\
             max_wal_size = '256MB'\n\
             idle_in_transaction_session_timeout = '1min'\n"
        }
        // A new database is some 6 MB of WAL: with few recycled segments at hand, each second
        // one would wait for 16 MB of zeros. Autovacuum visits one database per
        // naptime/number of databases: at PostgreSQL's minute, hundreds of idle projects would
        // keep it busy. A role is held to `fatal` in the log so that no project can fill it.
        ClusterKind::Projects => {
            "max_connections = 400\n\
             superuser_reserved_connections = 20\n\
             shared_buffers = '128MB'\n\
             max_wal_size = '1GB'\n\
             min_wal_size = '192MB'\n\
             max_worker_processes = 4\n\
             max_parallel_workers_per_gather = 1\n\
             checkpoint_timeout = '1min'\n\
             autovacuum_naptime = '5min'\n\
             autovacuum_max_workers = 2\n\
             temp_file_limit = '2GB'\n\
             idle_in_transaction_session_timeout = '30min'\n\
             client_connection_check_interval = '10s'\n\
             authentication_timeout = '15s'\n\
             log_min_error_statement = 'panic'\n"
        }
    };
    common + own
}

/// `pg_hba.conf`: our superuser by peer authentication; a project's role with its password, and
/// only into the database of the same name.
pub fn host_based(kind: ClusterKind) -> String {
    let superuser = format!(
        "# Written by FullStack Agent before each start.\n\
         local all {SUPERUSER} peer map=fsa\n"
    );
    match kind {
        ClusterKind::Control => superuser,
        ClusterKind::Projects => superuser + "local sameuser all scram-sha-256\n",
    }
}

/// `pg_ident.conf`: the system users who may sign in as the superuser. Root could become the system
/// user anyway.
pub fn identities(system_user: &str) -> String {
    let system_user = system_user.replace('"', "\"\"");
    format!(
        "# Written by FullStack Agent before each start.\n\
         fsa \"{system_user}\" {SUPERUSER}\n\
         fsa root {SUPERUSER}\n"
    )
}

/// A string in PostgreSQL's configuration files.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cluster_listens_on_a_network() {
        for kind in [ClusterKind::Control, ClusterKind::Projects] {
            let text = settings(kind, Path::new("/d/it's/run/p"), Path::new("/d/logs"));
            assert!(text.contains("listen_addresses = ''\n"));
            assert!(text.contains("unix_socket_directories = '/d/it''s/run/p'\n"));
            assert!(!host_based(kind).contains("host "));
        }
    }

    #[test]
    fn only_the_superuser_gets_into_the_control_cluster() {
        let lines: Vec<_> = host_based(ClusterKind::Control)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        assert_eq!(lines, ["local all fsa peer map=fsa"]);
    }
}
