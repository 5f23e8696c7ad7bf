//! Hard links of a layer to files of layers below it. Each layer is unpacked alone, and shared by images, so these links
//! are recorded, and created once all layers of an image are known ([`crate::runner::link_layer`]).

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, linkat, mkdirat, unlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    UnpackError,
    entry_path::{open_below, split},
};
use crate::images::tarball::printable;

/// A hard link of a layer. Both paths are normalized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferredLink {
    pub path: Vec<u8>,
    pub target: Vec<u8>,
}

/// Makes the links, in order, below `root`, which shows the layers below merged. Nothing outside of it is reached.
///
/// # Errors
/// [`UnpackError`], with the link.
pub fn make(root: BorrowedFd<'_>, links: &[DeferredLink]) -> Result<(), UnpackError> {
    for link in links {
        let refused = |why: String| UnpackError::Refused {
            path: printable(&link.path),
            why,
        };
        let failed = |error: Errno| UnpackError::Write {
            path: printable(&link.path),
            error: io::Error::from(error),
        };
        let missing = || {
            refused(format!(
                "is a link to {:?}, which is neither in its layer nor in one below",
                printable(&link.target)
            ))
        };
        let (from, target) = split(&link.target);
        let (to, name) = split(&link.path);
        let from = match open_below(root, from) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing()),
            other => other.map_err(failed)?,
        };
        let to = folder(root, to).map_err(failed)?;
        let attempt = || linkat(&from, target, &to, name, AtFlags::empty());
        let made = match attempt() {
            Err(Errno::EXIST) => {
                let removed = match unlinkat(&to, name, AtFlags::empty()) {
                    Err(Errno::ISDIR) => unlinkat(&to, name, AtFlags::REMOVEDIR),
                    other => other,
                };
                removed.and_then(|()| attempt())
            }
            other => other,
        };
        match made {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(missing()),
            Err(Errno::PERM) => return Err(refused("is a link to a folder".into())),
            Err(Errno::NOTEMPTY) => {
                return Err(refused("would replace a folder that is not empty".into()));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// The folder, made with its parents where it is missing. Their metadata is that of the link's own layer, above.
fn folder(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let ends = path
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at);
    let mut above = open_below(root, b"")?;
    for end in ends.chain([path.len()]) {
        above = match open_below(root, &path[..end]) {
            Err(Errno::NOENT) => {
                mkdirat(above.as_fd(), split(&path[..end]).1, Mode::from_raw_mode(0o755))?;
                open_below(root, &path[..end])?
            }
            other => other?,
        };
    }
    Ok(above)
}
