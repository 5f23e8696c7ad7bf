//! Protocol between `fsa serve` and the privileged runner: requests, responses, notifications.
//!
//! One packet of a SOCK_SEQPACKET socket is one JSON message; descriptors travel beside it
//! (SCM_RIGHTS) in the order that the message's documentation names. Requests carry names, ids
//! and numbers, never a path: the runner derives paths itself and checks every argument again.
//! Responses come in any order, and carry the request's number.

mod database;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use chrono::{DateTime, Utc};
use fsa_model::{
    Failure, FailureKind, ResourceName, Resources, SandboxRef, SnapshotId, VolumeId,
    sandboxd::Usage,
    snapshot::{FileChanges, SnapshotContent},
    snapshot_files::{HexBytes, SnapshotFolder, SnapshotPath},
};
use rustix::{
    fs::MemfdFlags,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use database::{DatabaseExit, DatabaseSetup, ObservedServer, StopWhen, check as check_database};

use crate::images::{DiffId, LayerBlob, UnpackedLayer};

/// Both halves are the same program, so they agree unless the program was replaced between their
/// starts; then the runner refuses the first request.
pub const VERSION: u32 = 5;

/// A longer message goes through a memfd instead of the packet (the kernel's default limit for
/// a packet is 208 KiB, `net.core.wmem_default`).
const INLINE_LIMIT: usize = 128 * 1024;
/// A longer message is a defect.
const MESSAGE_LIMIT: u64 = 64 * 1024 * 1024;
/// The most descriptors beside one message.
const DESCRIPTORS: usize = 8;

/// What the root file system of a sandbox is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Root {
    /// The machine's own `/usr`, read-only, and a synthesized rest.
    Host,
    /// Layers that [`Request::UnpackLayer`] made, the lowest first.
    Layers(Vec<DiffId>),
}

/// What the runner needs to start a sandbox. Secrets are in the boot descriptor, which the runner
/// does not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartSandbox {
    pub sandbox: SandboxRef,
    pub root: Root,
    pub resources: Resources,
    /// [`fsa_model::SandboxSpec::digest`], to detect drift.
    pub digest: String,
    /// A DNS label.
    pub hostname: String,
    /// The sandbox has a database, and its proxy a socket ([`Request::BindDatabaseProxy`]).
    pub database_proxy: bool,
}

/// A request to the runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "op")]
pub enum Request {
    /// The first request. Answered by [`Response::Hello`].
    Hello {
        version: u32,
    },
    /// Makes the network namespace and its interfaces where they are missing.
    EnsureNetwork {
        sandbox: SandboxRef,
    },
    /// Two descriptors: the listening control socket, and the boot message. Makes the network
    /// too where it is missing. A running sandbox is an error; the caller compares digests first,
    /// with [`Request::Observe`].
    StartContainer(StartSandbox),
    /// SIGTERM to process 1, and SIGKILL after `grace_millis`; the files stay.
    Stop {
        sandbox: SandboxRef,
        grace_millis: u64,
    },
    /// Removes everything of the sandbox but its volume.
    Destroy {
        sandbox: SandboxRef,
    },
    RemoveVolume {
        volume: VolumeId,
    },
    /// Freezes what uses the sandbox's volume for the moment of a snapshot of it. A snapshot that exists is
    /// kept.
    CreateSnapshot {
        sandbox: SandboxRef,
        snapshot: SnapshotId,
    },
    DeleteSnapshot {
        volume: VolumeId,
        snapshot: SnapshotId,
    },
    /// Replaces the content of the sandbox's volume, which nothing may use, with a snapshot of the volume `from`.
    RestoreSnapshot {
        sandbox: SandboxRef,
        from: VolumeId,
        snapshot: SnapshotId,
    },
    /// Makes the volume of a sandbox from a snapshot of the volume `from`. A volume that exists is kept.
    CloneSnapshot {
        from: VolumeId,
        snapshot: SnapshotId,
        sandbox: SandboxRef,
    },
    Snapshots {
        volume: VolumeId,
    },
    SnapshotBytes {
        volume: VolumeId,
        snapshot: SnapshotId,
    },
    /// Whether a volume has changed since a snapshot of it.
    ChangedSince {
        sandbox: SandboxRef,
        snapshot: SnapshotId,
    },
    /// Opens a file of a snapshot, or of the present files, by its absolute path in the sandbox, percent-encoded. The
    /// descriptor of a regular file is beside the answer.
    ComparedFile {
        sandbox: SandboxRef,
        snapshot: Option<SnapshotId>,
        path: String,
    },
    /// Compares the files of a snapshot with those of a later one, or with the present ones.
    DiffSnapshot {
        sandbox: SandboxRef,
        from: SnapshotId,
        to: Option<SnapshotId>,
    },
    /// A page of a folder of a snapshot: the entries after the name `after`.
    ListSnapshot {
        path: SnapshotPath,
        after: HexBytes,
    },
    /// One descriptor comes back: a regular file of a snapshot, for reading.
    OpenSnapshotFile {
        path: SnapshotPath,
    },
    /// One descriptor: a pipe, from which a tar stream with the folders `home` and `root` is read. A volume that exists
    /// is kept.
    ImportVolume {
        sandbox: SandboxRef,
    },
    Observe {
        sandbox: SandboxRef,
    },
    /// Every sandbox that has files or a network here.
    Inventory,
    /// Three descriptors come back: unconnected, non-blocking TCP sockets made in the sandbox's
    /// network namespace, IPv4, IPv4 and IPv6 (the last is missing where the machine has none).
    Dial {
        sandbox: SandboxRef,
    },
    /// One descriptor comes back: a socket that listens on 127.0.0.1:5432 in the sandbox's
    /// network. The same socket for each request.
    BindDatabaseProxy {
        sandbox: SandboxRef,
    },
    Usage {
        sandbox: SandboxRef,
    },
    /// The blob is found in the blob store by its digest.
    UnpackLayer {
        layer: LayerBlob,
    },
    /// Refused where a sandbox is made of it.
    RemoveLayer {
        layer: DiffId,
    },
    /// Every unpacked layer that is there.
    Layers,
    /// Those of `layers` that are not unpacked.
    MissingLayers {
        layers: Vec<DiffId>,
    },
    /// Every layer that a sandbox is made of.
    UsedLayers,
    /// Size and fill of the storage pool.
    Storage,
    /// Records what the volume's database has to be. Starts nothing.
    EnsureDatabase {
        volume: VolumeId,
        setup: DatabaseSetup,
    },
    /// Starts the volume's database server, closed to clients. A running one stays as it is.
    StartDatabase {
        volume: VolumeId,
    },
    /// Opens the server's socket to clients.
    OpenDatabase {
        volume: VolumeId,
    },
    /// Answered by [`Response::Stopped`].
    StopDatabase {
        volume: VolumeId,
        when: StopWhen,
    },
    /// Stops the server and removes the files.
    RemoveDatabase {
        volume: VolumeId,
    },
    /// Copies a database to a volume that has none. The source's server is stopped for it.
    CopyDatabase {
        from: VolumeId,
        to: VolumeId,
        setup: DatabaseSetup,
    },
    /// Copies the database of a snapshot of the volume `from` to the new volume `to`, to be compared.
    CopySnapshotDatabase {
        from: VolumeId,
        snapshot: SnapshotId,
        to: VolumeId,
    },
    /// Answered by [`Response::Databases`] with one, or none where the volume has no database.
    ObserveDatabase {
        volume: VolumeId,
    },
    /// Every volume's database.
    Databases,
    DatabaseDisk {
        volume: VolumeId,
    },
    /// The end of the server's log.
    DatabaseLog {
        volume: VolumeId,
        /// At most.
        bytes: u64,
    },
    /// Leftovers on the machine: interfaces, control groups, mounts, tables, sandboxes' folders.
    /// For tests and `fsa doctor`.
    Leftovers,
}

/// A successful response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Response {
    Done,
    Hello(Box<Hello>),
    Network {
        address: Ipv4Addr,
    },
    Observed(Box<ObservedSandbox>),
    Inventory {
        sandboxes: Vec<SandboxRef>,
    },
    /// With the descriptors of [`Request::Dial`].
    Sockets {
        address: Option<Ipv4Addr>,
    },
    /// With the descriptor of [`Request::BindDatabaseProxy`].
    DatabaseProxy,
    Usage(Usage),
    Snapshot(SnapshotContent),
    Snapshots {
        snapshots: Vec<SnapshotId>,
    },
    SnapshotBytes {
        bytes: Option<u64>,
    },
    SnapshotDiff(FileChanges),
    SnapshotFolder(SnapshotFolder),
    /// With the descriptor of [`Request::OpenSnapshotFile`].
    SnapshotFile,
    Changed {
        changed: bool,
    },
    /// Without a descriptor, whether there is something that is no regular file.
    ComparedFile {
        exists: bool,
    },
    Unpacked(UnpackedLayer),
    Layers {
        layers: Vec<DiffId>,
    },
    Storage(StorageStatus),
    /// Whether the database server does not run.
    Stopped {
        stopped: bool,
    },
    Databases {
        servers: Vec<ObservedServer>,
    },
    Disk {
        bytes: u64,
    },
    Log {
        text: String,
    },
    Leftovers {
        what: Vec<String>,
    },
}

/// How the storage pool keeps volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StorageBackend {
    /// Plain folders.
    Copy,
    /// Subvolumes of btrfs.
    Btrfs,
}

/// Size and fill of the storage pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    pub backend: StorageBackend,
    /// The folder, file or device that the volumes are on.
    pub path: PathBuf,
    /// False where no server and no sandbox uses the pool; then sizes are 0.
    pub mounted: bool,
    pub size_bytes: u64,
    pub free_bytes: u64,
    /// Used by metadata; 0 where it is not counted.
    pub metadata_bytes: u64,
    /// So full that nothing is started.
    pub full: bool,
    /// Errors that btrfs has counted on its devices.
    pub device_errors: u64,
    /// By how much the pool's sparse file may still grow beyond the space of its file system.
    pub lacking_bytes: u64,
}

/// What the runner found out about the machine when it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    pub version: u32,
    /// The runner acts for a plain user, in a user namespace.
    pub rootless: bool,
    pub enforces_memory: bool,
    pub enforces_cpu: bool,
    pub enforces_pids: bool,
    pub isolates_network: bool,
    /// Problems with which no sandbox can be started, each with its fix.
    pub blockers: Vec<String>,
    /// Problems that only limit sandboxes, as sentences.
    pub warnings: Vec<String>,
    /// The OCI runtime and its version.
    pub runtime: String,
    pub idmapped_mounts: bool,
}

/// The observed state of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedSandbox {
    /// It has files.
    pub exists: bool,
    /// Its process 1 is alive.
    pub running: bool,
    pub digest: Option<String>,
    /// It has a network.
    pub network: bool,
    /// It was started with a database ([`StartSandbox::database_proxy`]).
    pub database_proxy: bool,
    pub volume: bool,
    /// How its last run ended.
    pub ended: Option<SandboxExit>,
    pub address: Option<Ipv4Addr>,
}

/// How a sandbox's process 1 ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxExit {
    pub at: DateTime<Utc>,
    pub how: ExitCause,
}

/// Why a sandbox's process 1 ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitCause {
    /// By a request.
    Stopped,
    Exited(i32),
    Signaled(i32),
    /// The kernel ended it because it used more than its memory limit, in MiB.
    OutOfMemory(u32),
    /// It ended while no runner watched it, or the machine was restarted.
    Unseen,
}

/// A notification from the runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Push {
    /// A worker of the runner has started. Requests that an earlier worker has not answered stay
    /// unanswered.
    WorkerStarted,
    /// The worker is still starting, and goes on.
    Busy,
    /// No worker can start, and none is retried. The last notification.
    Failed(Failure),
    Exited {
        sandbox: SandboxRef,
        how: ExitCause,
    },
    /// A database server ended without a request.
    DatabaseExited(DatabaseExit),
}

/// From `fsa serve` to the runner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    pub id: u64,
    pub request: Request,
}

/// From the runner to `fsa serve`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    Reply {
        id: u64,
        result: Result<Response, Failure>,
    },
    Push(Push),
}

/// A message and the descriptors beside it.
pub struct Packet<T> {
    pub message: T,
    pub descriptors: Vec<OwnedFd>,
}

/// A connected pair of sockets.
///
/// # Errors
/// Where the machine has no descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message. On `WouldBlock` (non-blocking socket) nothing was sent; retry.
///
/// # Errors
/// `BrokenPipe` where the other side is gone.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() <= INLINE_LIMIT {
        return send_packet(socket, &text, descriptors);
    }
    let mut file = File::from(rustix::fs::memfd_create("fsa-message", MemfdFlags::CLOEXEC)?);
    file.write_all(&text)?;
    file.rewind()?;
    let mut all = vec![file.as_fd()];
    all.extend_from_slice(descriptors);
    send_packet(socket, b"", &all)
}

fn send_packet(socket: impl AsFd, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    // The first byte is always present, so a long message differs from the end of the connection.
    let kind = [u8::from(text.is_empty())];
    let parts = [io::IoSlice::new(&kind), io::IoSlice::new(text)];
    loop {
        match rustix::net::sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message; `None` when the other side has closed.
///
/// # Errors
/// `WouldBlock` on a non-blocking socket; `InvalidData` for an invalid message.
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Packet<T>>> {
    buffer.resize(INLINE_LIMIT + 1, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS + 1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [io::IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            // Returned once where the other side ended with unread messages; its own messages
            // can still be read, and its end after them (net/unix/af_unix.c).
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message was cut off",
        ));
    }
    let message = if buffer[0] == 0 {
        serde_json::from_slice(&buffer[1..received.bytes])?
    } else {
        if descriptors.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a long message has no body",
            ));
        }
        let mut text = Vec::new();
        File::from(descriptors.remove(0))
            .take(MESSAGE_LIMIT)
            .read_to_end(&mut text)?;
        serde_json::from_slice(&text)?
    };
    Ok(Some(Packet { message, descriptors }))
}

/// A [`FailureKind::Machine`] failure.
#[must_use]
pub fn machine(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Machine, message)
}

/// Validates what serde does not: digest, host name, limits, number of layers.
///
/// # Errors
/// Names the field.
pub fn check(start: &StartSandbox) -> Result<(), Failure> {
    let wrong = |what: &str| {
        Err(Failure::new(
            FailureKind::Internal,
            format!("the runner was given {what}"),
        ))
    };
    if start.digest.len() > 128 || !start.digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return wrong("an invalid digest");
    }
    let host = start.hostname.as_bytes();
    if host.is_empty()
        || host.len() > 63
        || !host.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        || host.starts_with(b"-")
        || host.ends_with(b"-")
    {
        return wrong("a host name that is not a DNS label");
    }
    let limits = &start.resources;
    if limits.memory_limit_mib < 8 || limits.cpu_limit_millis < 10 || limits.pids_limit < 8 {
        return wrong("limits too low for any program");
    }
    if let Root::Layers(layers) = &start.root
        && (layers.is_empty() || layers.len() > 450)
    {
        return wrong("an image without layers, or with more than 450");
    }
    Ok(())
}

/// The sandbox that a request changes, if any: requests for the same one are serialized.
#[must_use]
pub fn subject(request: &Request) -> Option<&ResourceName> {
    match request {
        Request::EnsureNetwork { sandbox }
        | Request::Stop { sandbox, .. }
        | Request::Destroy { sandbox }
        | Request::CreateSnapshot { sandbox, .. }
        | Request::RestoreSnapshot { sandbox, .. }
        | Request::CloneSnapshot { sandbox, .. }
        | Request::ImportVolume { sandbox }
        | Request::BindDatabaseProxy { sandbox } => Some(&sandbox.resource),
        Request::StartContainer(start) => Some(&start.sandbox.resource),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_in_order() {
        let (here, there) = pair().unwrap();
        let (one, two) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
        send(
            &here,
            &Call {
                id: 7,
                request: Request::Inventory,
            },
            &[one.as_fd(), two.as_fd()],
        )
        .unwrap();

        let packet = receive::<Call>(&there, &mut Vec::new()).unwrap().unwrap();

        assert_eq!(
            (packet.message.id, packet.message.request),
            (7, Request::Inventory)
        );
        let mut byte = [1];
        File::from(packet.descriptors[1].try_clone().unwrap())
            .read_exact(&mut byte)
            .unwrap();
        assert_eq!((packet.descriptors.len(), byte), (2, [0]));
    }

    #[test]
    fn a_message_longer_than_a_packet_arrives_whole() {
        let (here, there) = pair().unwrap();
        let what = vec!["x".repeat(1000); 3000];
        let message = Message::Reply {
            id: 1,
            result: Ok(Response::Leftovers { what: what.clone() }),
        };
        let null = File::open("/dev/null").unwrap();
        send(&here, &message, &[null.as_fd()]).unwrap();

        let packet = receive::<Message>(&there, &mut Vec::new()).unwrap().unwrap();

        assert_eq!(packet.descriptors.len(), 1);
        assert!(matches!(packet.message,
            Message::Reply { result: Ok(Response::Leftovers { what: arrived }), .. } if arrived == what));
    }

    #[test]
    fn the_end_of_the_other_side_is_no_error() {
        let (here, there) = pair().unwrap();
        drop(here);
        assert!(receive::<Call>(&there, &mut Vec::new()).unwrap().is_none());
    }

    #[test]
    fn a_request_that_names_a_path_for_a_resource_is_refused() {
        let id = uuid::Uuid::now_v7();
        let text = format!(
            r#"{{"id":1,"request":{{"op":"destroy","sandbox":{{"id":"{id}","project":"{id}","resource":"../../etc"}}}}}}"#
        );
        assert!(serde_json::from_str::<Call>(&text).is_err());
    }
}
