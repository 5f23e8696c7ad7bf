//! Number of clients that are connected to a server, as the kernel counts them.
//!
//! An accepted connection of a Unix socket has the address that the server bound (unix(7)), which has
//! the volume's id in it, and is in the network namespace of the client: that of the machine, where
//! `fsa serve`, the database proxy and the runner are. So it does not matter which process connected,
//! and a client that the server has not accepted yet counts too.

use std::{fs, io};

use fsa_model::VolumeId;

use super::{OPEN, settings};

/// The machine's Unix sockets (proc_pid_net(5)).
pub struct Table(String);

impl Table {
    /// # Errors
    /// The kernel's.
    pub fn read() -> io::Result<Self> {
        fs::read_to_string("/proc/thread-self/net/unix").map(Self)
    }

    /// Connected clients of a volume's server.
    ///
    /// Fields: address, references, protocol, flags, type, state, inode, path. `__SO_ACCEPTCON` is
    /// set in the flags of a listening socket.
    #[must_use]
    pub fn clients(&self, volume: VolumeId) -> u32 {
        const LISTENS: u32 = 0x0001_0000;
        let bound = format!("{}/{OPEN}", settings::sockets(volume));
        let clients = self.0.lines().filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, _, _, flags, _, _, _, path] = fields.as_slice() else {
                return false;
            };
            *path == bound && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LISTENS == 0)
        });
        u32::try_from(clients.count()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_waiting_clients_count_and_the_listening_socket_does_not() {
        let (ours, other) = (VolumeId::generate(), VolumeId::generate());
        let table = format!(
            "Num       RefCount Protocol Flags    Type St Inode Path\n\
             000000003bfda6cf: 00000002 00000000 00010000 0001 01 60356 /run/postgresql/{ours}/.s.PGSQL.5432\n\
             00000000f2486e4a: 00000003 00000000 00000000 0001 02     0 /run/postgresql/{ours}/.s.PGSQL.5432\n\
             00000000f2486e4b: 00000003 00000000 00000000 0001 03 60359 /run/postgresql/{ours}/.s.PGSQL.5432\n\
             00000000f2486e4c: 00000003 00000000 00000000 0001 03 60360\n\
             00000000f2486e4d: 00000003 00000000 00000000 0001 03 60361 /run/postgresql/{other}/.s.PGSQL.5432\n"
        );
        assert_eq!(Table(table).clients(ours), 2);
    }
}
