//! Numbers of the transactions in which a subvolume of btrfs was made and last changed. They show whether it has changed
//! since a snapshot without reading a file.

use std::{io, os::fd::AsFd};

use rustix::ioctl::{Getter, ioctl, opcode};

use super::ioctl::BTRFS;

/// `btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct SubvolumeInfo {
    tree: u64,
    name: [u8; 256],
    parent: u64,
    folder: u64,
    /// The transaction of the last change.
    last: u64,
    flags: u64,
    uuids: [u8; 48],
    changed: u64,
    /// The transaction in which it was made.
    created: u64,
    sent: u64,
    received: u64,
    /// Four times, and the reserve.
    rest: [u64; 16],
}

const _: () = assert!(size_of::<SubvolumeInfo>() == 504);

/// The numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transactions {
    pub created: u64,
    pub last: u64,
}

/// When a subvolume was made and last changed, as far as that is on disk.
///
/// # Errors
/// `ENOTTY` on another file system.
pub fn of_subvolume(subvolume: impl AsFd) -> io::Result<Transactions> {
    // SAFETY: the request writes a `btrfs_ioctl_get_subvol_info_args`; every bit pattern is valid in it.
    #[allow(unsafe_code)]
    let info = unsafe {
        ioctl(
            subvolume,
            Getter::<{ opcode::read::<SubvolumeInfo>(BTRFS, 60) }, SubvolumeInfo>::new(),
        )?
    };
    Ok(Transactions {
        created: info.created,
        last: info.last,
    })
}
