//! Writer of a layer's tar entries: below one folder and never outside it.
//!
//! Every path is normalized, and resolved by `openat2` relative to the layer's folder: first
//! without any symbolic link, and where the archive itself made a folder a link, with that folder
//! as the root. So no `..`, no absolute name, no link and no race leads out.
//!
//! Compared with the `tar` crate's `unpack`, which resolves paths by name, knows no whiteouts and
//! has no limits.
//!
//! Deletions are translated to overlayfs' own form: `.wh.name` to a character device 0/0,
//! `.wh..wh..opq` to the attribute `overlay.opaque` of its folder (OCI image specification,
//! "Applying changesets"; kernel documentation, "overlayfs").

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, RawMode, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fchmod, fchown, fgetxattr, fsetxattr, fstatvfs, futimens, linkat, mkdirat, mknodat, openat,
        statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use super::{
    UnpackError,
    deferred_link::DeferredLink,
    entry_path::{NAME_MAX, normal, open_below, open_folder, split},
    pipeline::CHUNK,
};
use crate::images::{
    UnpackedLayer,
    tarball::{Entry, Kind, Reader, TarError, printable},
};

/// The highest user or group id that a sandbox's user namespace maps.
const ID_MAX: u64 = 65_535;
/// Bytes of names that are remembered: of folders to set their times at the end, and of deferred links.
const REMEMBERED_MAX: usize = 64 << 20;
/// Bytes between two checks of the free space.
const CHECK_EVERY: u64 = 64 << 20;
const XATTRS_MAX: usize = 64;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How layers are written on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// overlayfs' attributes are called `user.overlay.*` (mounts with `userxattr`, in a user
    /// namespace) rather than `trusted.overlay.*`.
    pub user_xattrs: bool,
    /// Set the owners of the archive. Without it (one id is mapped), the runner owns all files.
    pub keep_owners: bool,
}

impl Rules {
    /// For a runner that is root on the machine.
    pub const ROOT: Self = Self {
        user_xattrs: false,
        keep_owners: true,
    };
    /// For a runner that is root of a user namespace with a whole range of ids.
    pub const USER_NAMESPACE: Self = Self {
        user_xattrs: true,
        keep_owners: true,
    };
}

/// Limits of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub entries: u64,
    /// Bytes of the uncompressed tar.
    pub bytes: u64,
    /// Bytes of the disk that stay free.
    pub keep_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            keep_free: 512 << 20,
        }
    }
}

/// Writes every entry of `tar` below `root`. Returns also the hard links to files of layers below, which are not known
/// here. The size of `tar` is limited by its sender. Below the path `whiteouts`, names that begin with `.wh.` are
/// deletions.
pub(super) fn write(
    tar: impl Read,
    root: &OwnedFd,
    rules: Rules,
    limits: Limits,
    whiteouts: &[u8],
) -> Result<(UnpackedLayer, Vec<DeferredLink>), UnpackError> {
    let mut tree = Tree {
        root: root.as_fd(),
        rules,
        limits,
        whiteouts,
        buffer: vec![0; CHUNK],
        parent: None,
        times: Vec::new(),
        deferred: Vec::new(),
        remembered: 0,
        size: UnpackedLayer::default(),
        unchecked: CHECK_EVERY,
        skipped: Skipped::default(),
    };
    let mut reader = Reader::new(tar);
    while let Some(entry) = reader.next_entry()? {
        tree.add(&entry, &mut reader)?;
    }
    let mut buffer = std::mem::take(&mut tree.buffer);
    reader.finish(&mut buffer).map_err(TarError::from)?;
    tree.finish()
}

/// Parts of entries that were left out, for the log.
#[derive(Debug, Default)]
struct Skipped {
    devices: u64,
    xattrs: u64,
    unknown: u64,
}

struct Tree<'a> {
    root: BorrowedFd<'a>,
    rules: Rules,
    limits: Limits,
    whiteouts: &'a [u8],
    buffer: Vec<u8>,
    /// The folder of the last entry: archives come in order, so it is mostly that of the next.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Folders with their times, which every new entry in them would change again.
    times: Vec<(Vec<u8>, (i64, u32))>,
    /// Hard links whose target this layer does not have.
    deferred: Vec<DeferredLink>,
    remembered: usize,
    size: UnpackedLayer,
    unchecked: u64,
    skipped: Skipped,
}

impl Tree<'_> {
    fn add(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), UnpackError> {
        self.count()?;
        let path = normal(&entry.path).map_err(|why| refused(entry, why))?;
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(refused(entry, "would replace the root folder"));
            }
            return self.describe_folder(entry, self.root, path);
        }
        let (folder, name) = split(&path);
        let parent = self.folder(entry, folder)?;
        let parent = parent.as_fd();
        if path.starts_with(self.whiteouts)
            && let Some(hidden) = name.strip_prefix(WHITEOUT)
        {
            return self.whiteout(entry, parent, name, hidden);
        }
        match entry.kind {
            Kind::File => self.file(entry, parent, name, content),
            Kind::Directory => {
                let fd = self.make_folder(entry, parent, name)?;
                self.describe_folder(entry, fd.as_fd(), path)
            }
            Kind::Symlink => self.symlink(entry, parent, name),
            Kind::Hardlink => self.hardlink(entry, parent, &path),
            Kind::Fifo => self.fifo(entry, parent, name),
            // A sandbox has only the devices that its runtime makes.
            Kind::Other(b'3' | b'4') => {
                self.skipped.devices += 1;
                Ok(())
            }
            Kind::Other(_) => {
                self.skipped.unknown += 1;
                Ok(())
            }
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.create_or_replace(entry, parent, name, || {
            openat(parent, name, flags, Mode::from_raw_mode(0o600))
        })?;
        let mut left = entry.size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let mut buffer = std::mem::take(&mut self.buffer);
            let result = self.copy(entry, &fd, &mut buffer[..length], content);
            self.buffer = buffer;
            result?;
            left -= length as u64;
        }
        self.own(entry, || fchown(&fd, Some(uid(entry)), Some(gid(entry))))?;
        fchmod(&fd, mode(entry)).map_err(|e| write_error(entry, e))?;
        self.attributes(entry, fd.as_fd())?;
        futimens(&fd, &times(entry.mtime)).map_err(|e| write_error(entry, e))
    }

    /// Copies up to one buffer, within the limits.
    fn copy(
        &mut self,
        entry: &Entry,
        fd: &OwnedFd,
        buffer: &mut [u8],
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        if crate::images::tarball::read_full(content, buffer).map_err(TarError::from)? < buffer.len() {
            return Err(TarError::Truncated.into());
        }
        let length = buffer.len() as u64;
        self.size.bytes += length;
        self.unchecked += length;
        if self.unchecked >= CHECK_EVERY {
            self.unchecked = 0;
            let space = fstatvfs(self.root).map_err(|e| write_error(entry, e))?;
            if space.f_bavail.saturating_mul(space.f_frsize) < self.limits.keep_free {
                return Err(UnpackError::DiskFull(self.limits.keep_free >> 20));
            }
        }
        let mut rest = &*buffer;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(fd, rest));
            match written.map_err(|e| self.full(entry, e))? {
                0 => return Err(write_error(entry, Errno::IO)),
                written => rest = &rest[written..],
            }
        }
        Ok(())
    }

    fn make_folder(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<OwnedFd, UnpackError> {
        let mut replaces_whiteout = false;
        match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found =
                    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| write_error(entry, e))?;
                let kind = FileType::from_raw_mode(found.st_mode);
                if kind != FileType::Directory {
                    replaces_whiteout = kind == FileType::CharacterDevice;
                    self.create_or_replace(entry, parent, name, || {
                        mkdirat(parent, name, Mode::from_raw_mode(0o755))
                    })?;
                }
            }
            Err(e) => return Err(self.full(entry, e)),
        }
        let fd = open_folder(parent, name).map_err(|e| write_error(entry, e))?;
        if replaces_whiteout {
            // What the whiteout hid must stay hidden below the new folder.
            self.make_opaque(entry, fd.as_fd())?;
        }
        Ok(fd)
    }

    fn describe_folder(
        &mut self,
        entry: &Entry,
        fd: BorrowedFd<'_>,
        path: Vec<u8>,
    ) -> Result<(), UnpackError> {
        self.own(entry, || fchown(fd, Some(uid(entry)), Some(gid(entry))))?;
        fchmod(fd, mode(entry)).map_err(|e| write_error(entry, e))?;
        self.attributes(entry, fd)?;
        self.remembered += path.len() + 64;
        if self.remembered > REMEMBERED_MAX {
            return Err(UnpackError::TooLarge("folders".into()));
        }
        self.times.push((path, entry.mtime));
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), UnpackError> {
        // The target may be any path: it is resolved in the sandbox.
        let target = entry.target.as_slice();
        if target.is_empty() || target.contains(&0) {
            return Err(refused(entry, "is a link without a target"));
        }
        self.create_or_replace(entry, parent, name, || symlinkat(target, parent, name))?;
        self.describe(entry, parent, name)
    }

    fn fifo(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), UnpackError> {
        self.create_or_replace(entry, parent, name, || {
            mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        })?;
        self.describe(entry, parent, name)?;
        // Nothing else writes here, so it is still the FIFO.
        chmodat(parent, name, mode(entry), AtFlags::empty()).map_err(|e| write_error(entry, e))
    }

    fn hardlink(&mut self, entry: &Entry, parent: BorrowedFd<'_>, path: &[u8]) -> Result<(), UnpackError> {
        let name = split(path).1;
        let to = normal(&entry.target).map_err(|why| refused(entry, why))?;
        if to.is_empty() {
            return Err(refused(entry, "is a link to the root folder"));
        }
        let (folder, target) = split(&to);
        let from = match open_below(self.root, folder) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return self.defer(entry, parent, path, &to),
            other => other.map_err(|e| write_error(entry, e))?,
        };
        let exists = match statat(&from, target, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => false,
            // A deletion is no file of this layer.
            Ok(found) => FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice,
            Err(e) => return Err(write_error(entry, e)),
        };
        if !exists {
            return self.defer(entry, parent, path, &to);
        }
        match self.create_or_replace(entry, parent, name, || {
            linkat(&from, target, parent, name, AtFlags::empty())
        }) {
            // The entry has its target's name.
            Err(UnpackError::Write { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => {
                Err(refused(
                    entry,
                    &format!("is a link to {:?}, which it replaces", printable(&entry.target)),
                ))
            }
            Err(UnpackError::Write { error, .. }) if error.raw_os_error() == Some(libc::EPERM) => {
                Err(refused(entry, "is a link to a folder"))
            }
            other => other,
        }
    }

    /// Defers a hard link until the layers below are known. A file or a deletion of an earlier entry under its name
    /// is removed, as for any other entry.
    fn defer(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        path: &[u8],
        target: &[u8],
    ) -> Result<(), UnpackError> {
        match unlinkat(parent, split(path).1, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Err(refused(entry, "would replace a folder")),
            Err(e) => return Err(write_error(entry, e)),
        }
        self.remembered += path.len() + target.len() + 64;
        if self.remembered > REMEMBERED_MAX {
            return Err(UnpackError::TooLarge("links".into()));
        }
        self.deferred.push(DeferredLink {
            path: path.to_vec(),
            target: target.to_vec(),
        });
        Ok(())
    }

    /// Whether the folder, or one above it, hides the layers below.
    fn is_below_opaque(&self, folder: &[u8]) -> bool {
        let ends = folder
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at);
        std::iter::once(0).chain(ends).chain([folder.len()]).any(|end| {
            open_below(self.root, &folder[..end])
                .and_then(|fd| open_folder(fd.as_fd(), b"."))
                .is_ok_and(|fd| fgetxattr(&fd, self.opaque_attribute(), &mut [0_u8; 8]).is_ok())
        })
    }

    /// Whether the layer itself has something under this path, after its last entry.
    fn has(&self, path: &[u8]) -> bool {
        let (folder, name) = split(path);
        open_below(self.root, folder)
            .and_then(|fd| statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW))
            .is_ok()
    }

    fn whiteout(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        hidden: &[u8],
    ) -> Result<(), UnpackError> {
        if name == OPAQUE {
            let fd = open_folder(parent, b".").map_err(|e| write_error(entry, e))?;
            return self.make_opaque(entry, fd.as_fd());
        }
        if hidden.starts_with(WHITEOUT) {
            // aufs' own metadata, not about files.
            self.skipped.unknown += 1;
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refused(entry, "deletes an entry without a name"));
        }
        match mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                // A whiteout is about the layers below: what this one has stays.
                match open_folder(parent, hidden) {
                    Ok(fd) => self.make_opaque(entry, fd.as_fd()),
                    Err(_) => Ok(()),
                }
            }
            other => other.map_err(|e| self.full(entry, e)),
        }
    }

    fn make_opaque(&self, entry: &Entry, fd: BorrowedFd<'_>) -> Result<(), UnpackError> {
        fsetxattr(fd, self.opaque_attribute(), b"y", XattrFlags::empty()).map_err(|e| write_error(entry, e))
    }

    const fn opaque_attribute(&self) -> &'static str {
        if self.rules.user_xattrs {
            "user.overlay.opaque"
        } else {
            "trusted.overlay.opaque"
        }
    }

    /// Owner and times of what is no file and no folder.
    fn describe(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), UnpackError> {
        self.own(entry, || {
            chownat(
                parent,
                name,
                Some(uid(entry)),
                Some(gid(entry)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        })?;
        utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| write_error(entry, e))
    }

    fn own(&self, entry: &Entry, chown: impl FnOnce() -> Result<(), Errno>) -> Result<(), UnpackError> {
        for (id, what) in [(entry.uid, "user"), (entry.gid, "group")] {
            if id > ID_MAX {
                return Err(refused(
                    entry,
                    &format!(
                        "belongs to {what} {id}; a sandbox has the ids 0 to {ID_MAX}: give the file another owner in the image"
                    ),
                ));
            }
        }
        if self.rules.keep_owners {
            chown().map_err(|e| write_error(entry, e))
        } else {
            Ok(())
        }
    }

    /// Sets `user.*` and file capabilities. Attributes of overlayfs and of security modules would
    /// let an image control the machine's treatment of it.
    fn attributes(&mut self, entry: &Entry, fd: BorrowedFd<'_>) -> Result<(), UnpackError> {
        for (at, (name, value)) in entry.xattrs.iter().enumerate() {
            let allowed = match name.as_slice() {
                // vfs_cap_data has 12, 20 or 24 bytes.
                b"security.capability" => (12..=24).contains(&value.len()),
                name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
            };
            if !allowed || at >= XATTRS_MAX || name.len() > NAME_MAX {
                self.skipped.xattrs += 1;
                continue;
            }
            match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A file system without them, or with less room for them, can still hold the file.
                Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::INVAL) => {
                    self.skipped.xattrs += 1;
                }
                Err(e) => return Err(write_error(entry, e)),
            }
        }
        Ok(())
    }

    /// Creates a file under a name, and replaces one of an earlier entry.
    fn create_or_replace<T>(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EXIST) => {}
            other => return other.map_err(|e| self.full(entry, e)),
        }
        // The remembered folder may be what goes, or be reached through it.
        self.parent = None;
        let removed = match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => unlinkat(parent, name, AtFlags::REMOVEDIR),
            other => other,
        };
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                return Err(refused(entry, "would replace a folder that is not empty"));
            }
            other => other.map_err(|e| write_error(entry, e))?,
        }
        make().map_err(|e| self.full(entry, e))
    }

    /// The folder at `path`, made with its parents where the archive left them out.
    fn folder(&mut self, entry: &Entry, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some((cached, fd)) = &self.parent
            && cached == path
        {
            return Ok(Rc::clone(fd));
        }
        let failed = |e| match e {
            Errno::NOTDIR => refused(entry, "is below something that is not a folder"),
            Errno::LOOP => refused(
                entry,
                "is below a link that is broken, forms a loop or leads too deep",
            ),
            e => write_error(entry, e),
        };
        let fd = match open_below(self.root, path) {
            Err(Errno::NOENT) => {
                let mut above = open_below(self.root, b"").map_err(failed)?;
                let ends = path
                    .iter()
                    .enumerate()
                    .filter(|(_, byte)| **byte == b'/')
                    .map(|(at, _)| at);
                for end in ends.chain([path.len()]) {
                    above = match open_below(self.root, &path[..end]) {
                        Err(Errno::NOENT) => {
                            self.count()?;
                            match mkdirat(&above, split(&path[..end]).1, Mode::from_raw_mode(0o755)) {
                                Ok(()) => open_below(self.root, &path[..end]).map_err(failed)?,
                                // A broken link.
                                Err(Errno::EXIST) => return Err(failed(Errno::LOOP)),
                                Err(e) => return Err(self.full(entry, e)),
                            }
                        }
                        other => other.map_err(failed)?,
                    };
                }
                above
            }
            other => other.map_err(failed)?,
        };
        let fd = Rc::new(fd);
        self.parent = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn count(&mut self) -> Result<(), UnpackError> {
        self.size.entries += 1;
        if self.size.entries > self.limits.entries {
            return Err(UnpackError::TooLarge(format!("{} files", self.limits.entries)));
        }
        Ok(())
    }

    fn full(&self, entry: &Entry, e: Errno) -> UnpackError {
        match e {
            Errno::NOSPC | Errno::DQUOT => UnpackError::DiskFull(self.limits.keep_free >> 20),
            e => write_error(entry, e),
        }
    }

    fn finish(mut self) -> Result<(UnpackedLayer, Vec<DeferredLink>), UnpackError> {
        let mut deferred = std::mem::take(&mut self.deferred);
        // What a later entry replaced or deleted.
        deferred.retain(|link| !self.has(&link.path));
        if let Some(hidden) = deferred
            .iter()
            .find(|link| self.is_below_opaque(split(&link.path).0))
        {
            return Err(UnpackError::Refused {
                path: printable(&hidden.path),
                why: "is a link to a file of a layer below, in a folder that hides those".into(),
            });
        }
        for (path, mtime) in &self.times {
            // What is there may be something else by now: then it has its own times.
            let fd = open_below(self.root, path).and_then(|fd| open_folder(fd.as_fd(), b"."));
            let _ = fd.map(|fd| futimens(fd, &times(*mtime)));
        }
        if self.skipped.devices + self.skipped.xattrs + self.skipped.unknown > 0 {
            tracing::info!(
                devices = self.skipped.devices,
                attributes = self.skipped.xattrs,
                unknown = self.skipped.unknown,
                "devices, attributes or unknown entries of a layer skipped"
            );
        }
        Ok((self.size, deferred))
    }
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode as RawMode)
}

// `own` has checked both ids before.
fn uid(entry: &Entry) -> Uid {
    Uid::from_raw(u32::try_from(entry.uid).unwrap_or(0))
}

fn gid(entry: &Entry) -> Gid {
    Gid::from_raw(u32::try_from(entry.gid).unwrap_or(0))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn refused(entry: &Entry, why: &str) -> UnpackError {
    UnpackError::Refused {
        path: entry.printable(),
        why: why.to_owned(),
    }
}

fn write_error(entry: &Entry, e: Errno) -> UnpackError {
    UnpackError::Write {
        path: entry.printable(),
        error: io::Error::from(e),
    }
}
