//! Link layers: the hard links of an image's layer to files of layers below it, as one more layer, directly below their own.
//!
//! A link layer is the upper folder of an overlay of the layers below, in which the links were made: the kernel copies
//! each target up. It is created once for each sandbox, in the sandbox's folder, so no image can determine the files of
//! another.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsFd as _,
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::mount::UnmountFlags;
use sha2::{Digest as _, Sha256};

use super::{
    mounts,
    unpack::{DeferredLink, UnpackError, make_links},
};
use crate::images::DiffId;

/// Folders and mount options for one link layer.
pub struct LinkLayerPaths<'a> {
    /// The runner's folder, which all paths of layers are relative to.
    pub runner: &'a Path,
    /// The sandbox's folder, relative to it.
    pub sandbox: &'a Path,
    /// Mount point in the runner's own mount namespace; created, and removed afterwards.
    pub scratch: &'a Path,
    /// The options of overlays on this machine.
    pub options: &'a str,
}

/// Creates the link layer of the last of `layers`, unless it exists. `lower` are the paths of everything below that layer,
/// the lowest first. Returns the path of the link layer.
///
/// # Errors
/// [`UnpackError`]: the target of a link is in no layer, or the machine failed.
pub fn ensure(
    paths: &LinkLayerPaths<'_>,
    layers: &[DiffId],
    lower: &[PathBuf],
    links: &[DeferredLink],
) -> Result<PathBuf, UnpackError> {
    let links_folder = paths.sandbox.join("links");
    let made = links_folder.join(key(layers));
    let path = paths.runner.join(&made);
    if path.is_dir() {
        return Ok(made);
    }
    let partial = path.with_extension("partial");
    let result = prepare(paths, &partial, lower)
        .map_err(machine)
        .and_then(|root| make_links(root.as_fd(), links));
    let _ = rustix::mount::unmount(
        paths.scratch.join("root"),
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    );
    clear(paths.scratch);
    result?;
    fs::rename(partial.join("upper"), &path)
        .and_then(|()| fs::remove_dir_all(&partial))
        .map_err(machine)?;
    Ok(made)
}

/// Mounts the overlay of `lower`, and returns the folder in which links are created.
fn prepare(paths: &LinkLayerPaths<'_>, partial: &Path, lower: &[PathBuf]) -> io::Result<File> {
    match fs::remove_dir_all(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for name in ["upper", "work"] {
        let folder = partial.join(name);
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    }
    fs::create_dir_all(paths.scratch.join("root"))?;
    // Links with short names: mount(2) reads one page of options.
    let mut names = Vec::with_capacity(lower.len());
    for (number, below) in lower.iter().enumerate() {
        names.push(number.to_string());
        symlink(paths.runner.join(below), paths.scratch.join(number.to_string()))?;
    }
    names.reverse();
    symlink(partial, paths.scratch.join("partial"))?;
    mounts::overlay(
        paths.scratch,
        &names,
        "partial/upper",
        "partial/work",
        "root",
        0,
        paths.options,
    )?;
    File::open(paths.scratch.join("root"))
}

/// Removes the links and the mount point. Not `remove_dir_all`: it would delete the content of what is still mounted.
fn clear(scratch: &Path) {
    let _ = fs::remove_dir(scratch.join("root"));
    if let Ok(entries) = fs::read_dir(scratch) {
        for entry in entries.flatten() {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(scratch);
}

/// The name of a link layer: it depends on its layer and on all below.
fn key(layers: &[DiffId]) -> String {
    let mut hash = Sha256::new();
    for layer in layers {
        hash.update(layer.hex());
    }
    hex::encode(&hash.finalize()[..16])
}

fn machine(error: io::Error) -> UnpackError {
    UnpackError::Machine {
        what: "its links to files of layers below could not be created",
        error,
    }
}

#[cfg(test)]
mod machine {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::images::Digest;

    fn link(path: &str, target: &str) -> DeferredLink {
        DeferredLink {
            path: path.into(),
            target: target.into(),
        }
    }

    #[test]
    fn links_to_files_of_lower_layers_become_a_layer() {
        // A mount namespace of this thread, which ends with the test's process.
        mounts::private_namespace().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let runner = folder.path().join("runner");
        let (a, b) = (PathBuf::from("layers/a"), PathBuf::from("layers/b"));
        fs::create_dir_all(runner.join(&a).join("usr/bin")).unwrap();
        fs::create_dir_all(runner.join(&b).join("etc")).unwrap();
        let tool = runner.join(&a).join("usr/bin/tool");
        fs::write(&tool, "x").unwrap();
        std::os::unix::fs::chown(&tool, Some(7), Some(8)).unwrap();
        fs::set_permissions(&tool, Permissions::from_mode(0o4751)).unwrap();
        fs::write(runner.join(&b).join("etc/old"), "old").unwrap();
        let paths = LinkLayerPaths {
            runner: &runner,
            sandbox: Path::new("sandboxes/s"),
            scratch: &folder.path().join("scratch"),
            options: "redirect_dir=off",
        };
        let layers = [DiffId::from(Digest::of(b"a")), DiffId::from(Digest::of(b"b"))];
        let lower = [a, b];
        let links = [
            link("opt/new/tool", "usr/bin/tool"),
            link("etc/old", "opt/new/tool"),
        ];

        let made = ensure(&paths, &layers, &lower, &links).unwrap();

        let of = |path: &str| fs::metadata(runner.join(&made).join(path)).unwrap();
        let new = of("opt/new/tool");
        assert_eq!(
            (new.mode() & 0o7777, new.uid(), new.gid(), new.nlink()),
            (0o4751, 7, 8, 3)
        );
        assert_eq!(new.ino(), of("etc/old").ino());
        assert_eq!(fs::read(runner.join(&made).join("etc/old")).unwrap(), b"x");
        assert_eq!(fs::read(&tool).unwrap(), b"x", "layers are never written again");
        assert!(!paths.scratch.exists());
        // Once only, and another one for other layers.
        assert_eq!(ensure(&paths, &layers, &[], &links).unwrap(), made);
        let refused = ensure(&paths, &layers[..1], &lower, &[link("x", "missing")]).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("neither in its layer nor in one below"),
            "{refused}"
        );
        assert!(!paths.scratch.exists());
    }
}
