//! Listening ports: the TCP ports on which processes of the sandbox listen, and the processes' names.
//!
//! There is no event for `listen(2)`, so [`crate::poll_scheduler`] polls. It uses
//! `NETLINK_SOCK_DIAG` (sock_diag(7)), which visits listening sockets only: `/proc/net/tcp` walks
//! the machine's whole table of connections each time (11 ms a read where that table has 262,144
//! buckets, measured), and is the fallback where sock_diag is not available.
//!
//! Compared with the crate `netlink-packet-sock-diag`: it has the packet types of the protocol, and
//! no socket. One fixed request and three fields of the response are needed here, so they are
//! encoded and decoded directly, after `linux/inet_diag.h`.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use fsa_model::sandboxd::ListeningPort;
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt,
        socket, sockopt::ReceiveTimeout,
    },
    time::{TimeVal, TimeValLike},
};

use crate::user::{Accounts, with_fs_ids_of};

/// Id of users that do not exist in this user namespace (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_ID: u32 = 65_534;

/// Listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    pub port: u16,
    pub inode: u32,
    pub uid: u32,
}

/// Lists the listening sockets of this network namespace.
#[derive(Debug)]
pub struct Ports {
    /// Socket of `NETLINK_SOCK_DIAG`; `None` where it is not available.
    sock_diag: Option<OwnedFd>,
    /// sandboxd's own ports, which are not listed.
    hidden: Vec<u16>,
    /// Inode to process name, of the sockets that were listed last.
    holders: BTreeMap<u32, Option<String>>,
}

impl Ports {
    #[must_use]
    pub fn new(hidden: Vec<u16>) -> Self {
        let sock_diag = open()
            .inspect_err(|error| tracing::info!("sock_diag is not available, using /proc/net/tcp: {error}"))
            .ok();
        Self {
            sock_diag,
            hidden,
            holders: BTreeMap::new(),
        }
    }

    /// Whether a poll is cheap enough for several times a second.
    #[must_use]
    pub const fn cheap(&self) -> bool {
        self.sock_diag.is_some()
    }

    /// The listening sockets now, sorted, without sandboxd's own.
    pub fn listeners(&mut self) -> Vec<Listener> {
        let mut all = match self.sock_diag.as_ref().map(query) {
            Some(Ok(all)) => all,
            Some(Err(error)) => {
                tracing::info!("sock_diag failed, using /proc/net/tcp: {error}");
                self.sock_diag = None;
                from_proc()
            }
            None => from_proc(),
        };
        all.retain(|listener| listener.port != 0 && !self.hidden.contains(&listener.port));
        all.sort_unstable();
        all
    }

    /// The sockets among `listeners` whose process was not searched yet.
    #[must_use]
    pub fn unknown(&self, listeners: &[Listener]) -> Vec<Listener> {
        listeners
            .iter()
            .filter(|listener| !self.holders.contains_key(&listener.inode))
            .copied()
            .collect()
    }

    /// Records the processes that were found, and returns the ports of `listeners` with their processes.
    ///
    /// A socket of a user that does not exist here, held by no process here, was put into this
    /// network namespace from outside (by the database proxy): no process *in* the sandbox listens
    /// on it.
    pub fn named(
        &mut self,
        listeners: &[Listener],
        holders: impl IntoIterator<Item = (u32, Option<String>)>,
    ) -> Vec<ListeningPort> {
        self.holders.extend(holders);
        self.holders
            .retain(|inode, _| listeners.iter().any(|listener| listener.inode == *inode));
        let mut ports: BTreeMap<u16, Option<String>> = BTreeMap::new();
        for listener in listeners {
            let holder = self.holders.get(&listener.inode).cloned().flatten();
            if holder.is_none() && listener.uid == OVERFLOW_ID {
                continue;
            }
            let process = ports.entry(listener.port).or_default();
            if process.is_none() {
                *process = holder;
            }
        }
        ports
            .into_iter()
            .map(|(port, process)| ListeningPort { port, process })
            .collect()
    }
}

/// Searches the processes that hold these sockets. Reads much of `/proc`: call it on a thread of the
/// blocking pool, and for new sockets only.
#[must_use]
pub fn holders(accounts: &Accounts, listeners: &[Listener]) -> Vec<(u32, Option<String>)> {
    let mut found: BTreeMap<u32, Option<String>> =
        listeners.iter().map(|listener| (listener.inode, None)).collect();
    let mut uids: Vec<_> = listeners.iter().map(|listener| listener.uid).collect();
    uids.sort_unstable();
    uids.dedup();
    for uid in uids {
        // Only its own user can see the descriptors of a process (proc(5)).
        let mut search = || search(&mut found);
        if accounts.switches() {
            let _ = with_fs_ids_of(&accounts.of_uid(uid), search);
        } else {
            search();
        }
    }
    found.into_iter().collect()
}

fn search(found: &mut BTreeMap<u32, Option<String>>) {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        if found.values().all(Option::is_some) {
            return;
        }
        if !process
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit)
        {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let held = fs::read_link(descriptor.path()).ok().and_then(|link| {
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .parse::<u32>()
                    .ok()
            });
            if let Some(holder) = held.and_then(|inode| found.get_mut(&inode))
                && holder.is_none()
            {
                *holder = name_of(&process.path());
            }
        }
    }
}

/// The first word of the process's command line: `node`, `python3`, `next-server`.
fn name_of(process: &Path) -> Option<String> {
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let first = command.split(|&byte| byte == 0).next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let word = first.split_whitespace().next().unwrap_or_default();
    let name = word.rsplit('/').next().unwrap_or_default().trim_end_matches(':');
    let name = if name.is_empty() {
        fs::read_to_string(process.join("comm")).ok()?.trim().to_owned()
    } else {
        name.to_owned()
    };
    Some(name.chars().take(64).collect())
}

fn open() -> io::Result<OwnedFd> {
    let descriptor = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkSockDiag),
    )?;
    // The kernel answers before sendto(2) returns; the timeout is for a filter that drops the answer.
    setsockopt(&descriptor, ReceiveTimeout, &TimeVal::milliseconds(500))?;
    query(&descriptor)?;
    Ok(descriptor)
}

fn query(descriptor: &OwnedFd) -> io::Result<Vec<Listener>> {
    let mut all = query_family(descriptor, libc::AF_INET)?;
    // A kernel without IPv6 returns an error for it.
    all.extend(query_family(descriptor, libc::AF_INET6).unwrap_or_default());
    Ok(all)
}

/// `SOCK_DIAG_BY_FAMILY`, linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `TCP_LISTEN`, net/tcp_states.h.
const LISTEN: u32 = 10;
const HEADER: usize = 16;

fn query_family(descriptor: &OwnedFd, family: i32) -> io::Result<Vec<Listener>> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = Vec::with_capacity(72);
    // struct nlmsghdr, then struct inet_diag_req_v2 (linux/inet_diag.h) with an empty socket id.
    request.extend_from_slice(&72u32.to_ne_bytes());
    request.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    request.extend_from_slice(&(1u32 << LISTEN).to_ne_bytes());
    request.resize(72, 0);
    sendto(
        descriptor.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let (mut listeners, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let length = recv(descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if length == 0 || !parse_responses(&buffer[..length], &mut listeners)? {
            return Ok(listeners);
        }
    }
}

/// Parses one datagram of responses. Returns whether more follow.
fn parse_responses(mut bytes: &[u8], listeners: &mut Vec<Listener>) -> io::Result<bool> {
    while bytes.len() >= HEADER {
        let length = number(bytes, 0) as usize;
        let message = bytes
            .get(..length.max(HEADER))
            .ok_or(io::ErrorKind::InvalidData)?;
        match i32::from(u16::from_ne_bytes([message[4], message[5]])) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR if message.len() >= HEADER + 4 => {
                return Err(io::Error::from_raw_os_error(
                    -number(message, HEADER).cast_signed(),
                ));
            }
            // struct inet_diag_msg: the source port is at byte 4; uid and inode are its last fields.
            _ if message.len() >= HEADER + 72 => listeners.push(Listener {
                port: u16::from_be_bytes([message[HEADER + 4], message[HEADER + 5]]),
                uid: number(message, HEADER + 64),
                inode: number(message, HEADER + 68),
            }),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|four| four.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

fn from_proc() -> Vec<Listener> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| parse_table(&table))
        .collect()
}

/// Parses the listening sockets of a `/proc/net/tcp` (proc_net_tcp in the kernel's documentation).
fn parse_table(table: &str) -> Vec<Listener> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, "0A", _, _, _, uid, _, inode, ..] = fields[..] else {
            return None;
        };
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        Some(Listener {
            port,
            inode: inode.parse().ok()?,
            uid: uid.parse().ok()?,
        })
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sock_diag_and_proc_list_a_socket_with_the_same_inode() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut ports = Ports::new(vec![]);
        let seen = ports.listeners();
        let ours = seen.iter().find(|seen| seen.port == port).expect("it listens");
        assert!(from_proc().contains(ours));

        let mut hidden = Ports::new(vec![port]);
        assert!(hidden.listeners().iter().all(|seen| seen.port != port));
    }

    #[test]
    fn only_listening_sockets_of_the_table_are_parsed() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 42 1 0 100 0 0 10 0\n\
            1: 0100007F:0BB9 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 43 1 0 20 4 30 10 -1\n";
        assert_eq!(
            parse_table(table),
            [Listener {
                port: 3000,
                inode: 42,
                uid: 1000
            }]
        );
    }

    #[test]
    fn a_socket_from_outside_the_sandbox_is_not_listed() {
        let mut ports = Ports::new(vec![]);
        let outside = Listener {
            port: 5432,
            inode: 1,
            uid: OVERFLOW_ID,
        };
        let inside = Listener {
            port: 3000,
            inode: 2,
            uid: 1000,
        };
        let unseen = Listener {
            port: 4000,
            inode: 3,
            uid: 1000,
        };
        let listed = ports.named(
            &[outside, inside, unseen],
            [(1, None), (2, Some("node".into())), (3, None)],
        );
        assert_eq!(
            listed,
            [
                ListeningPort {
                    port: 3000,
                    process: Some("node".into())
                },
                ListeningPort {
                    port: 4000,
                    process: None
                },
            ]
        );
        assert!(ports.unknown(&[inside]).is_empty());
    }
}
