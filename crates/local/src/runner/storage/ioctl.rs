//! ioctl requests of btrfs and of loop devices. Structures and numbers are those of
//! `linux/btrfs.h` and `linux/loop.h`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use rustix::ioctl::{Getter, NoArg, Setter, Updater, ioctl, opcode};

/// Group of all requests of btrfs.
pub(super) const BTRFS: u8 = 0x94;
/// `BTRFS_QUOTA_CTL_ENABLE`: counts by back references; any kernel.
const QUOTA_ENABLE: u64 = 1;
/// `BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA`: counts by owner; Linux 6.7.
const QUOTA_ENABLE_SIMPLE: u64 = 4;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const LIMIT_REFERENCED: u64 = 1;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode of every subvolume's root.
pub const SUBVOLUME_INODE: u64 = 256;

const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_GET_STATUS64: u32 = 0x4C05;
const LOOP_SET_CAPACITY: u32 = 0x4C07;
const LOOP_CTL_GET_FREE: u32 = 0x4C82;
/// The device detaches itself when its last user is gone.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Past the page cache of the file system below, which would hold every block twice.
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Logical block size of a loop device: btrfs' sector size, and aligned for direct I/O anywhere.
const BLOCK: u32 = 4096;

/// `btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

impl VolumeArguments {
    fn named(name: &str) -> io::Result<Self> {
        let mut arguments = Self {
            fd: 0,
            name: [0; 4088],
        };
        let bytes = name.as_bytes();
        // The last byte stays 0.
        if bytes.len() >= arguments.name.len() {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        arguments.name[..bytes.len()].copy_from_slice(bytes);
        Ok(arguments)
    }
}

/// `BTRFS_SUBVOL_RDONLY`.
const SUBVOLUME_READ_ONLY: u64 = 1 << 1;

/// `btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct SnapshotArguments {
    /// The subvolume that the snapshot is taken of.
    source: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaControl {
    command: u64,
    status: u64,
}

/// `btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
#[derive(Default)]
struct QuotaLimit {
    /// 0: that of the subvolume.
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

/// `btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InodeLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `btrfs_ioctl_fs_info_args`.
#[repr(C)]
struct FileSystemInfo {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

/// `loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LoopStatus {
    /// Of the file that is attached.
    pub device: u64,
    pub inode: u64,
    rdevice: u64,
    pub offset: u64,
    size_limit: u64,
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

/// `loop_config`.
#[repr(C)]
struct LoopConfiguration {
    fd: u32,
    block_size: u32,
    status: LoopStatus,
    reserved: [u64; 8],
}

const _: () = {
    assert!(size_of::<VolumeArguments>() == 4096);
    assert!(size_of::<SnapshotArguments>() == 4096);
    assert!(size_of::<QuotaControl>() == 16);
    assert!(size_of::<QuotaLimit>() == 48);
    assert!(size_of::<InodeLookup>() == 4096);
    assert!(size_of::<FileSystemInfo>() == 1024);
    assert!(size_of::<LoopStatus>() == 232);
    assert!(size_of::<LoopConfiguration>() == 304);
};

/// Creates a subvolume in the folder `parent`.
///
/// # Errors
/// `AlreadyExists`; `ENOTTY` on another file system.
pub fn create_subvolume(parent: impl AsFd, name: &str) -> io::Result<()> {
    let arguments = VolumeArguments::named(name)?;
    // SAFETY: the request reads a `btrfs_ioctl_vol_args`, which lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(
            parent,
            Setter::<{ opcode::write::<VolumeArguments>(BTRFS, 14) }, _>::new(arguments),
        )?;
    }
    Ok(())
}

/// Takes a snapshot of the subvolume `source` in the folder `parent`, and waits until it is on disk.
///
/// # Errors
/// `AlreadyExists`; `StorageFull`.
pub fn snapshot_subvolume(
    source: impl AsFd,
    parent: impl AsFd,
    name: &str,
    read_only: bool,
) -> io::Result<()> {
    let mut arguments = SnapshotArguments {
        source: source.as_fd().as_raw_fd().into(),
        transaction: 0,
        flags: if read_only { SUBVOLUME_READ_ONLY } else { 0 },
        unused: [0; 4],
        name: [0; 4040],
    };
    // The last byte stays 0.
    if name.len() >= arguments.name.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    arguments.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the request reads a `btrfs_ioctl_vol_args_v2`, which lives through the call, as does
    // the descriptor in it.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(
            parent,
            Setter::<{ opcode::write::<SnapshotArguments>(BTRFS, 23) }, _>::new(arguments),
        )?;
    }
    Ok(())
}

/// Deletes a subvolume in the folder `parent`. Its space is freed in the background.
///
/// # Errors
/// `NotFound`; `DirectoryNotEmpty` where another subvolume is inside.
pub fn delete_subvolume(parent: impl AsFd, name: &str) -> io::Result<()> {
    let arguments = VolumeArguments::named(name)?;
    // SAFETY: the request reads a `btrfs_ioctl_vol_args`, which lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(
            parent,
            Setter::<{ opcode::write::<VolumeArguments>(BTRFS, 15) }, _>::new(arguments),
        )?;
    }
    Ok(())
}

/// Enables quotas: simple ones where the kernel has them. Quotas that are enabled already stay as
/// they are.
///
/// # Errors
/// The kernel's.
pub fn enable_quota(file_system: impl AsFd) -> io::Result<()> {
    let enable = |command| {
        let mut control = QuotaControl { command, status: 0 };
        // SAFETY: the request reads and writes a `btrfs_ioctl_quota_ctl_args`, which lives through
        // the call; every bit pattern is valid in it.
        #[allow(unsafe_code)]
        unsafe {
            ioctl(
                &file_system,
                Updater::<{ opcode::read_write::<QuotaControl>(BTRFS, 40) }, _>::new(&mut control),
            )
        }
    };
    match enable(QUOTA_ENABLE_SIMPLE) {
        Err(rustix::io::Errno::INVAL) => Ok(enable(QUOTA_ENABLE)?),
        other => Ok(other?),
    }
}

/// Limits the bytes of a quota group; 0 is that of the subvolume that `subvolume` is in.
///
/// # Errors
/// `NotFound`, `ENOTCONN` without quotas.
pub fn limit_group(subvolume: impl AsFd, group: u64, bytes: u64) -> io::Result<()> {
    let limit = QuotaLimit {
        group,
        flags: LIMIT_REFERENCED,
        max_referenced: bytes,
        ..QuotaLimit::default()
    };
    // SAFETY: the request reads a `btrfs_ioctl_qgroup_limit_args` (declared as one that is
    // written), which lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(
            subvolume,
            Setter::<{ opcode::read::<QuotaLimit>(BTRFS, 43) }, _>::new(limit),
        )?;
    }
    Ok(())
}

/// The id of the subvolume that a folder is in; also the number of its quota group (`0/ID`).
///
/// # Errors
/// `ENOTTY` on another file system.
pub fn subvolume_id(folder: impl AsFd) -> io::Result<u64> {
    let mut lookup = InodeLookup {
        tree: 0,
        object: SUBVOLUME_INODE,
        name: [0; 4080],
    };
    // SAFETY: the request reads and writes a `btrfs_ioctl_ino_lookup_args`, which lives through
    // the call; every bit pattern is valid in it.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(
            folder,
            Updater::<{ opcode::read_write::<InodeLookup>(BTRFS, 18) }, _>::new(&mut lookup),
        )?;
    }
    Ok(lookup.tree)
}

/// The id of the file system that a folder is on.
///
/// # Errors
/// `ENOTTY` on another file system.
pub fn file_system_id(folder: impl AsFd) -> io::Result<uuid::Uuid> {
    // SAFETY: the request writes a `btrfs_ioctl_fs_info_args`; every bit pattern is valid in it.
    #[allow(unsafe_code)]
    let info = unsafe {
        ioctl(
            folder,
            Getter::<{ opcode::read::<FileSystemInfo>(BTRFS, 31) }, FileSystemInfo>::new(),
        )?
    };
    Ok(uuid::Uuid::from_bytes(info.fsid))
}

/// Grows the file system to the size of its device.
///
/// # Errors
/// The kernel's.
pub fn grow_file_system(file_system: impl AsFd) -> io::Result<()> {
    let arguments = VolumeArguments::named("max")?;
    // SAFETY: the request reads a `btrfs_ioctl_vol_args`, which lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(
            file_system,
            Setter::<{ opcode::write::<VolumeArguments>(BTRFS, 3) }, _>::new(arguments),
        )?;
    }
    Ok(())
}

/// The number of a loop device that is free at this moment.
///
/// # Errors
/// The kernel's.
pub fn free_loop_device(control: &File) -> io::Result<u32> {
    // SAFETY: the request has no argument.
    #[allow(unsafe_code)]
    let number = unsafe { libc::ioctl(control.as_raw_fd(), libc::Ioctl::from(LOOP_CTL_GET_FREE)) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Attaches a file to a loop device, with direct I/O where its file system has it.
///
/// # Errors
/// `ResourceBusy` where the device was attached meanwhile.
pub fn attach_loop(device: &File, file: &File) -> io::Result<()> {
    let configuration = LoopConfiguration {
        fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
        block_size: BLOCK,
        status: LoopStatus {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encryption: [0; 2],
            flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
            names: [0; 160],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the request reads a `loop_config`, which lives through the call.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(device, Setter::<LOOP_CONFIGURE, _>::new(configuration))?;
    }
    Ok(())
}

/// What a loop device is attached to.
///
/// # Errors
/// `ENXIO` where it is free.
pub fn loop_status(device: &File) -> io::Result<LoopStatus> {
    // SAFETY: the request writes a `loop_info64`; every bit pattern is valid in it.
    #[allow(unsafe_code)]
    let status = unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, LoopStatus>::new())? };
    Ok(status)
}

/// Grows a loop device to the size of its file.
///
/// # Errors
/// The kernel's.
pub fn grow_loop(device: &File) -> io::Result<()> {
    // SAFETY: the request has no argument.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(device, NoArg::<LOOP_SET_CAPACITY>::new())?;
    }
    Ok(())
}
