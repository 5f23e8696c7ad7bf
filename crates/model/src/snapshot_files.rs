//! Files of a snapshot, as a driver lists them for a backup.

use serde::{Deserialize, Serialize};

use crate::{SandboxRef, SnapshotId};

/// A part of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumePart {
    Home,
    /// What was changed in the root file system: the upper folder of an overlay.
    Root,
}

impl VolumePart {
    pub const ALL: [Self; 2] = [Self::Home, Self::Root];

    /// The name of its folder in an archive of a volume.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Root => "root",
        }
    }
}

/// A file or folder of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotPath {
    /// The sandbox that the snapshot was taken of, with its volume.
    pub sandbox: SandboxRef,
    pub snapshot: SnapshotId,
    pub part: VolumePart,
    /// Relative to the part; empty for the part itself.
    pub path: HexBytes,
}

/// What an entry of a folder is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotEntryKind {
    File,
    Directory {
        /// It hides everything that is below it in the image.
        opaque: bool,
    },
    Symlink(#[serde(with = "hex_bytes")] Vec<u8>),
    Fifo,
    Socket,
    /// An entry of the image that was deleted.
    Whiteout,
}

/// An entry of a folder of a snapshot. Ids are those inside the sandbox; times are seconds and nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotEntry {
    /// Any bytes but `/` and 0; empty for the folder itself.
    #[serde(with = "hex_bytes")]
    pub name: Vec<u8>,
    pub kind: SnapshotEntryKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, u32),
    pub changed: (i64, u32),
    pub size: u64,
    pub inode: u64,
    /// Number of names of the same file.
    pub links: u64,
    /// Extended attributes that an image or a program may set (`user.*`, `security.capability`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(String, HexBytes)>,
}

/// A folder of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotFolder {
    /// The folder itself; `None` if the snapshot does not have it.
    pub folder: Option<SnapshotEntry>,
    /// Sorted by the bytes of their names.
    pub entries: Vec<SnapshotEntry>,
    /// There are more, after the last one.
    pub more: bool,
}

/// Bytes that are written as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HexBytes(#[serde(with = "hex_bytes")] pub Vec<u8>);

mod hex_bytes {
    use std::fmt::Write as _;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes();
        if digits.len() % 2 != 0 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(D::Error::custom("not hexadecimal digits"));
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20) - b'a' + 10,
        };
        Ok(digits
            .chunks_exact(2)
            .map(|pair| value(pair[0]) << 4 | value(pair[1]))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_survive() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = serde_json::to_string(&HexBytes(bytes.clone())).unwrap();
        assert_eq!(serde_json::from_str::<HexBytes>(&text).unwrap().0, bytes);
        for wrong in ["\"0\"", "\"0g\"", "\"+1\""] {
            assert!(serde_json::from_str::<HexBytes>(wrong).is_err(), "{wrong}");
        }
    }
}
