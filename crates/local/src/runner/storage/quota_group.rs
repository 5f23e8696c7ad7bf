//! Quota group of a volume with snapshots, where btrfs has simple quotas (Linux 6.7).
//!
//! Simple quotas charge a byte to the subvolume that wrote it for as long as anything holds it. After a
//! restore the living volume is a new subvolume, to which the restored files are not charged; so the
//! limit is on a group (`1/N`) of all subvolumes that were the living volume. What their snapshots
//! hold counts once. The root folder of the volume names its group in an extended attribute, which its
//! snapshots have too.
//!
//! Full quotas charge a byte to everything that refers to it: there the limit of the living volume is
//! enough, and snapshots are outside of it.

use std::{fs::File, io, os::fd::AsFd};

use rustix::{
    fs::XattrFlags,
    ioctl::{Setter, ioctl, opcode},
};

use super::{
    btrfs::BtrfsPool,
    ioctl::{BTRFS, limit_group, subvolume_id},
    status,
};

const ATTRIBUTE: &str = "trusted.fsa.quota-group";
/// Bits of a group's number below its level.
const LEVEL_SHIFT: u32 = 48;

/// `btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct Create {
    create: u64,
    group: u64,
}

/// `btrfs_ioctl_qgroup_assign_args`.
#[repr(C)]
struct Assign {
    assign: u64,
    member: u64,
    group: u64,
}

impl BtrfsPool {
    /// Makes the group of a volume that is about to have its first snapshot, with the volume's limit.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn ensure_quota_group(&self, volume: &File) -> io::Result<()> {
        if !status::has_simple_quotas(self.fsid) || group_of(volume)?.is_some() {
            return Ok(());
        }
        let id = subvolume_id(volume)?;
        // Subvolumes' ids are not used again.
        let group = 1 << LEVEL_SHIFT | id;
        create(volume, group)?;
        assign(volume, id, group)?;
        if let (_, Some(bytes)) = self.quota(volume)? {
            limit_group(volume, group, bytes)?;
        }
        name_group(volume, group)
    }
}

/// Puts a subvolume that is about to become the living volume into the volume's group.
///
/// # Errors
/// The file system's.
pub(super) fn join_quota_group(restored: &File) -> io::Result<()> {
    match group_of(restored)? {
        Some(group) => assign(restored, subvolume_id(restored)?, group),
        None => Ok(()),
    }
}

/// Removes the name of another volume's group from a subvolume that was made from a snapshot of that volume.
///
/// # Errors
/// The file system's.
pub(super) fn forget_quota_group(restored: &File) -> io::Result<()> {
    match rustix::fs::fremovexattr(restored, ATTRIBUTE) {
        Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Puts a subvolume that was made from another volume's snapshot into the group of the volume that it is about to
/// replace.
///
/// # Errors
/// The file system's.
pub(super) fn inherit_quota_group(living: &File, restored: &File) -> io::Result<()> {
    let Some(group) = group_of(living)? else {
        return Ok(());
    };
    name_group(restored, group)?;
    assign(restored, subvolume_id(restored)?, group)
}

fn name_group(volume: &File, group: u64) -> io::Result<()> {
    let name = group.to_string();
    Ok(rustix::fs::fsetxattr(
        volume,
        ATTRIBUTE,
        name.as_bytes(),
        XattrFlags::empty(),
    )?)
}

/// The group of a volume, by the number that the kernel has for it.
///
/// # Errors
/// The file system's.
pub(super) fn group_of(volume: &File) -> io::Result<Option<u64>> {
    let mut text = [0; 24];
    match rustix::fs::fgetxattr(volume, ATTRIBUTE, &mut text) {
        Ok(length) => Ok(std::str::from_utf8(&text[..length])
            .ok()
            .and_then(|text| text.parse().ok())),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn create(file_system: impl AsFd, group: u64) -> io::Result<()> {
    // SAFETY: the request reads a `btrfs_ioctl_qgroup_create_args`, which lives through the call.
    #[allow(unsafe_code)]
    let created = unsafe {
        ioctl(
            file_system,
            Setter::<{ opcode::write::<Create>(BTRFS, 42) }, _>::new(Create { create: 1, group }),
        )
    };
    match created {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

fn assign(file_system: impl AsFd, member: u64, group: u64) -> io::Result<()> {
    let arguments = Assign {
        assign: 1,
        member,
        group,
    };
    // SAFETY: the request reads a `btrfs_ioctl_qgroup_assign_args`, which lives through the call.
    #[allow(unsafe_code)]
    let assigned = unsafe {
        ioctl(
            file_system,
            Setter::<{ opcode::write::<Assign>(BTRFS, 41) }, _>::new(arguments),
        )
    };
    match assigned {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}
