//! Archives: no archive writes outside of its target folder.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use fsa_fuzz::target;
use fsa_local::{
    images::{LayerBlob, digest::Digest},
    runner::unpack::{Layers, Limits, Rules},
};
use fsa_sandboxd::files::tar_in;

use crate::error_text;

/// Tar with one malicious entry.
fn entry(kind: tar::EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    // Written as bytes: the library refuses the paths that matter here.
    for (field, text) in [(0, path), (157, link)] {
        let bytes = &text.as_bytes()[..text.len().min(100)];
        header.as_mut_bytes()[field..field + bytes.len()].copy_from_slice(bytes);
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archives() -> Vec<Vec<u8>> {
    use tar::EntryType as Kind;
    let file = |path| entry(Kind::Regular, path, "", b"hello");
    [
        vec![file("src/main.rs"), entry(Kind::Directory, "src/", "", b"")],
        vec![file("../outside/x"), file("/etc/x")],
        vec![entry(Kind::Symlink, "way", "../outside", b""), file("way/x")],
        vec![entry(Kind::Symlink, "way", "/", b""), file("way/tmp/x")],
        vec![entry(Kind::Link, "same", "../outside/kept", b""), file("same")],
        vec![entry(Kind::Link, "same", "src/main.rs", b"")],
        vec![
            file(".wh.gone"),
            file(".wh..wh..opq"),
            entry(Kind::Char, "dev", "", b""),
        ],
        vec![
            entry(
                Kind::GNULongName,
                "././@LongLink",
                "",
                b"a/very/long/../../../name\0",
            ),
            file("x"),
        ],
        vec![
            entry(Kind::XHeader, "pax", "", b"26 path=../../outside/pax\n"),
            file("x"),
        ],
    ]
    .into_iter()
    .map(|parts| [parts.concat(), vec![0; 1024]].concat())
    .collect()
}

/// Corrects the checksums after a mutation, because a wrong one is refused first.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// Target folder, with files beside it that an archive must not reach.
struct GuardedTarget {
    folder: tempfile::TempDir,
}

impl GuardedTarget {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = folder.path().join("outside");
        fs::create_dir_all(outside.join("folder")).expect("a folder");
        fs::write(outside.join("kept"), "kept").expect("a file");
        fs::create_dir(folder.path().join("root")).expect("a folder");
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// No file beside the folder was created, removed or changed.
    fn assert_untouched(&self) {
        let outside = self.folder.path().join("outside");
        let mut names: Vec<_> = fs::read_dir(&outside)
            .expect("it is there")
            .flatten()
            .map(|entry| entry.file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        assert_eq!(names, ["folder", "kept"]);
        assert_eq!(
            fs::read_to_string(outside.join("kept")).expect("it is there"),
            "kept"
        );
        assert_eq!(
            fs::read_dir(outside.join("folder")).expect("it is there").count(),
            0
        );
    }
}

/// Image layer: no archive writes outside of its folder.
#[test]
fn layers() {
    let target_folder = GuardedTarget::new();
    let data = target_folder.root();
    fs::create_dir_all(data.join("images/blobs/sha256")).expect("a folder");
    symlink("../outside", target_folder.folder.path().join("link")).expect("a link");
    let limits = Limits {
        entries: 2000,
        bytes: 1 << 20,
        keep_free: 0,
    };
    let rules = Rules {
        user_xattrs: true,
        keep_owners: false,
    };
    let layers = Layers::open(&data, rules, limits).expect("a folder for layers");
    target("layers")
        .seeds(&archives())
        .dictionary(&[
            b"../",
            b"/",
            b"outside",
            b"kept",
            b".wh.",
            b"ustar\0",
            b"\0\0\0\0",
        ])
        .check(|bytes| {
            let bytes = with_checksums(bytes);
            let blob = Digest::of(&bytes);
            let file = data.join("images/blobs/sha256").join(blob.hex());
            fs::write(&file, &bytes).expect("a blob");
            let layer = LayerBlob {
                diff_id: blob.into(),
                blob,
            };
            let result = layers.unpack(&layer);
            let _ = layers.remove(&layer.diff_id);
            fs::remove_file(&file).expect("a blob");
            target_folder.assert_untouched();
            match result {
                Ok(size) => {
                    assert!(size.bytes <= 1 << 20 && size.entries <= 2000);
                    format!("{} entries", size.entries.min(5))
                }
                Err(error) => error_text(&error),
            }
        });
}

/// Tar upload into a sandbox: the same, also if existing links lead out of the folder.
#[test]
fn uploaded_archives() {
    let target_folder = GuardedTarget::new();
    let root = target_folder.root();
    target("uploaded-archives")
        .seeds(&archives())
        .dictionary(&[b"../", b"/", b"outside", b"kept", b"way", b"ustar\0", b"\0\0\0\0"])
        .check(|bytes| {
            fs::remove_dir_all(&root).expect("the folder goes");
            fs::create_dir(&root).expect("a folder");
            symlink("../outside", root.join("old-way")).expect("a link");
            let bytes = with_checksums(bytes);
            let result = tar_in::unpack(&root, &bytes[..]);
            target_folder.assert_untouched();
            assert!(within(&root) <= bytes.len() as u64 * 2 + 4096);
            result.map_or_else(|error| error_text(&error), |()| "unpacked".into())
        });
}

/// Bytes of the files below `folder`.
fn within(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let metadata = entry.metadata().expect("the entry has metadata");
        bytes += if metadata.is_dir() {
            within(&entry.path())
        } else {
            metadata.len()
        };
    }
    bytes
}
