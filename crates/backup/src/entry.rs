//! Entries of a backup: files, folders and links with what the file system says about them.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustic_core::{
    jiff::Timestamp,
    repofile::{Metadata, Node, NodeType},
};
use serde_json::json;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    /// With its target.
    Symlink(OsString),
    Fifo,
    Socket,
    /// A character device with its number; 0 is the whiteout of an overlay.
    CharacterDevice(u64),
    BlockDevice(u64),
}

/// One entry. Times are seconds and nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the backup's root.
    pub path: PathBuf,
    pub kind: EntryKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, u32),
    /// Of its last change of any kind (ctime).
    pub changed: (i64, u32),
    pub size: u64,
    pub inode: u64,
    /// Number of names of the same file (hard links).
    pub links: u64,
    pub attributes: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// An entry that is in no file system.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, kind: EntryKind, mode: u32) -> Self {
        Self {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            changed: (0, 0),
            size: 0,
            inode: 0,
            links: 1,
            attributes: Vec::new(),
        }
    }

    pub(crate) fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    pub(crate) fn node(&self) -> Node {
        let kind = match &self.kind {
            EntryKind::File => NodeType::File,
            EntryKind::Directory => NodeType::Dir,
            EntryKind::Symlink(target) => NodeType::from_link(target.as_ref()),
            EntryKind::Fifo => NodeType::Fifo,
            EntryKind::Socket => NodeType::Socket,
            EntryKind::CharacterDevice(device) => NodeType::Chardev { device: *device },
            EntryKind::BlockDevice(device) => NodeType::Dev { device: *device },
        };
        let metadata = Metadata {
            mode: Some(self.go_mode()),
            mtime: time(self.modified),
            atime: time(self.modified),
            ctime: time(self.changed),
            uid: Some(self.uid),
            gid: Some(self.gid),
            inode: self.inode,
            size: match self.kind {
                EntryKind::File => self.size,
                _ => 0,
            },
            links: match self.kind {
                EntryKind::Directory => 0,
                _ => self.links,
            },
            ..attributes(&self.attributes)
        };
        Node::new_node(self.name(), kind, metadata)
    }

    pub(crate) fn of_node(path: PathBuf, node: &Node) -> Self {
        let kind = match &node.node_type {
            NodeType::File => EntryKind::File,
            NodeType::Dir => EntryKind::Directory,
            NodeType::Symlink { .. } => EntryKind::Symlink(node.node_type.to_link().as_os_str().to_owned()),
            NodeType::Fifo => EntryKind::Fifo,
            NodeType::Socket => EntryKind::Socket,
            NodeType::Chardev { device } => EntryKind::CharacterDevice(*device),
            NodeType::Dev { device } => EntryKind::BlockDevice(*device),
        };
        let meta = &node.meta;
        Self {
            path,
            kind,
            mode: unix_mode(meta.mode.unwrap_or(0o600)),
            uid: meta.uid.unwrap_or_default(),
            gid: meta.gid.unwrap_or_default(),
            modified: seconds(meta.mtime),
            changed: seconds(meta.ctime),
            size: meta.size,
            inode: meta.inode,
            links: meta.links,
            attributes: meta
                .extended_attributes
                .iter()
                .map(|attribute| {
                    (
                        attribute.name.clone(),
                        attribute.value.clone().unwrap_or_default(),
                    )
                })
                .collect(),
        }
    }
}

impl Entry {
    /// The mode as restic stores it: the bits of Go's `io/fs.FileMode`.
    fn go_mode(&self) -> u32 {
        let kind = match self.kind {
            EntryKind::File => 0,
            EntryKind::Directory => 1 << 31,
            EntryKind::Symlink(_) => 1 << 27,
            EntryKind::BlockDevice(_) => 1 << 26,
            EntryKind::CharacterDevice(_) => 1 << 26 | 1 << 21,
            EntryKind::Fifo => 1 << 25,
            EntryKind::Socket => 1 << 24,
        };
        SPECIAL
            .iter()
            .filter(|(unix, _)| self.mode & unix != 0)
            .fold(kind | self.mode & 0o777, |mode, (_, go)| mode | go)
    }
}

/// Set-user-id, set-group-id and sticky: in Unix, and in Go.
const SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

fn unix_mode(go: u32) -> u32 {
    SPECIAL
        .iter()
        .filter(|(_, bit)| go & bit != 0)
        .fold(go & 0o777, |mode, (unix, _)| mode | unix)
}

/// The type of an attribute is not public, so it is made as it is read from a repository.
fn attributes(all: &[(String, Vec<u8>)]) -> Metadata {
    if all.is_empty() {
        return Metadata::default();
    }
    let attributes: Vec<_> = all
        .iter()
        .map(|(name, value)| json!({"name": name, "value": BASE64_STANDARD.encode(value)}))
        .collect();
    serde_json::from_value(json!({ "extended_attributes": attributes })).unwrap_or_default()
}

fn time((seconds, nanoseconds): (i64, u32)) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

fn seconds(time: Option<Timestamp>) -> (i64, u32) {
    let Some(time) = time else { return (0, 0) };
    let nanoseconds = time.as_nanosecond();
    let second = nanoseconds.div_euclid(1_000_000_000);
    let rest = nanoseconds.rem_euclid(1_000_000_000);
    (
        i64::try_from(second).unwrap_or_default(),
        u32::try_from(rest).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_system_says_of_an_entry_survives_the_repository_form() {
        for kind in [
            EntryKind::File,
            EntryKind::Directory,
            EntryKind::Symlink("../a b".into()),
            EntryKind::CharacterDevice(0),
        ] {
            let entry = Entry {
                uid: 1000,
                gid: 7,
                modified: (-5, 250_000_000),
                changed: (1_700_000_000, 1),
                inode: 12,
                links: 0,
                attributes: vec![("user.mime".into(), vec![0, 255])],
                ..Entry::new("home/x", kind, 0o4751)
            };
            assert_eq!(Entry::of_node("home/x".into(), &entry.node()), entry);
        }
    }
}
