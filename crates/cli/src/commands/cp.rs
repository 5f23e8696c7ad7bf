//! `fsa cp`: copies files and folders to and from a sandbox.

use std::{
    ffi::OsStr,
    io::{Read as _, SeekFrom, Write},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use fsa_model::percent;
use futures_util::TryStreamExt as _;
use reqwest::{Body, Method, header};
use tar::{Builder, Header};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::{
    args::Cp,
    client::{self, Client, encode},
    failure::{Code, Failure, Outcome},
    output,
};

const TAR: &str = "application/x-tar";
/// Set-user-id and set-group-id. On another machine the ids belong to other users.
const SET_ID_BITS: u32 = 0o6000;

/// Bytes that are received at once.
const PIECE: usize = 256 * 1024;
/// Bytes of zeros that become a hole in a file.
const HOLE: usize = 4096;

/// Source or target of a copy. Paths need not be UTF-8.
#[derive(Debug, PartialEq, Eq)]
enum Location {
    Local(PathBuf),
    Remote { project: String, path: Vec<u8> },
}

pub async fn run(client: &Client, cp: &Cp) -> Outcome {
    match (parse_location(&cp.source), parse_location(&cp.target)) {
        (Location::Local(source), Location::Remote { project, path }) => {
            upload(client, &source, &project, &path).await
        }
        (Location::Remote { project, path }, Location::Local(target)) => {
            download(client, &project, &path, &target).await
        }
        _ => Err(Failure::usage(
            "one of SOURCE and TARGET must be PROJECT:PATH, and the other a local path",
        )),
    }
}

/// `name:path` is in a sandbox if `name` is a possible project name; `./a:b` and `/a:b` are local.
fn parse_location(text: &OsStr) -> Location {
    let bytes = text.as_bytes();
    let parts = bytes
        .iter()
        .position(|byte| *byte == b':')
        .map(|at| (&bytes[..at], &bytes[at + 1..]));
    match parts.and_then(|(project, path)| Some((std::str::from_utf8(project).ok()?, path))) {
        Some((project, path)) if !project.is_empty() && !project.contains(['/', '.']) => Location::Remote {
            project: project.to_owned(),
            path: path.to_owned(),
        },
        _ => Location::Local(PathBuf::from(text)),
    }
}

fn url(project: &str, path: &[u8]) -> String {
    format!(
        "/api/projects/{}/files?path={}",
        encode(project),
        percent::encode(if path.is_empty() { b"." } else { path })
    )
}

async fn upload(client: &Client, source: &Path, project: &str, path: &[u8]) -> Outcome {
    let metadata = std::fs::metadata(source)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", source.display())))?;
    let name = source.file_name().unwrap_or_default().as_bytes();
    if metadata.is_dir() {
        let (reader, writer) = tokio::io::duplex(256 * 1024);
        let folder = source.to_owned();
        let packer = tokio::task::spawn_blocking(move || {
            let mut archive = Builder::new(SyncIoBridge::new(writer));
            archive.follow_symlinks(false);
            let skipped = pack(&mut archive, &folder)?;
            archive.into_inner()?.shutdown()?;
            Ok::<_, std::io::Error>(skipped)
        });
        let request = client
            .request(Method::PUT, &url(project, path))
            .header(header::CONTENT_TYPE, TAR)
            .body(Body::wrap_stream(ReaderStream::with_capacity(reader, 256 * 1024)));
        let response = client::checked(request).await;
        let packed = packer.await.map_err(|error| Failure::failed(error.to_string()))?;
        response?;
        let skipped = packed
            .map_err(|error| Failure::failed(format!("{} could not be read: {error}", source.display())))?;
        for path in &skipped {
            output::notice(&format!(
                "fsa: {} was skipped: only files, folders and symbolic links are copied",
                path.display()
            ));
        }
        if !skipped.is_empty() {
            return Ok(Code::Failed as u8);
        }
    } else if !metadata.is_file() {
        return Err(Failure::usage(format!(
            "{} is neither a file nor a folder",
            source.display()
        )));
    } else {
        let target = if path.is_empty() || path.ends_with(b"/") {
            [path, name].concat()
        } else {
            path.to_owned()
        };
        let file = tokio::fs::File::open(source).await?;
        let request = client
            .request(Method::PUT, &url(project, &target))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, metadata.len())
            .body(Body::wrap_stream(ReaderStream::with_capacity(file, 256 * 1024)));
        client::checked(request).await?;
    }
    Ok(0)
}

/// Packs the content of `folder` without set-id bits. Returns the skipped paths: sockets, FIFOs and devices.
fn pack<W: Write>(archive: &mut Builder<W>, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut skipped = Vec::new();
    let mut folders = vec![PathBuf::from(".")];
    while let Some(name) = folders.pop() {
        append(archive, &folder.join(&name), &name)?;
        for entry in std::fs::read_dir(folder.join(&name))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = name.join(entry.file_name());
            if kind.is_dir() {
                folders.push(name);
            } else if kind.is_file() || kind.is_symlink() {
                append(archive, &entry.path(), &name)?;
            } else {
                skipped.push(entry.path());
            }
        }
    }
    Ok(skipped)
}

fn append<W: Write>(archive: &mut Builder<W>, path: &Path, name: &Path) -> std::io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.is_symlink() || metadata.mode() & SET_ID_BITS == 0 {
        return archive.append_path_with_name(path, name);
    }
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_mode(metadata.mode() & !SET_ID_BITS);
    if metadata.is_dir() {
        archive.append_data(&mut header, name, std::io::empty())
    } else {
        archive.append_data(&mut header, name, std::fs::File::open(path)?.take(metadata.len()))
    }
}

async fn download(client: &Client, project: &str, path: &[u8], target: &Path) -> Outcome {
    let request = client
        .request(Method::GET, &url(project, path))
        .header(header::ACCEPT, format!("{TAR}, */*;q=0.5"));
    let response = client::checked(request).await?;
    let folder = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == TAR);
    let mut reader = StreamReader::new(response.bytes_stream().map_err(std::io::Error::other));
    if folder {
        let target = target.to_owned();
        let reader = SyncIoBridge::new(reader);
        tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&target)?;
            let mut archive = tar::Archive::new(reader);
            archive.set_preserve_permissions(true);
            archive.set_overwrite(true);
            archive.unpack(&target)
        })
        .await
        .map_err(|error| Failure::failed(error.to_string()))??;
    } else {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let target = if target.is_dir() {
            target.join(OsStr::from_bytes(name))
        } else {
            target.to_owned()
        };
        let mut file = tokio::fs::File::create(&target)
            .await
            .map_err(|error| Failure::failed(format!("{} cannot be written: {error}", target.display())))?;
        // /dev/stdout, for example, can have no hole.
        let regular = file.metadata().await?.is_file();
        let mut piece = vec![0; PIECE];
        let mut length = 0;
        loop {
            let read = reader.read(&mut piece).await?;
            if read == 0 {
                break;
            }
            length += read as u64;
            if regular && read >= HOLE && piece[..read].iter().all(|byte| *byte == 0) {
                file.seek(SeekFrom::Start(length)).await?;
            } else {
                file.write_all(&piece[..read]).await?;
            }
        }
        file.flush().await?;
        if regular {
            file.set_len(length).await?;
        }
        file.sync_all().await?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs::{self, Permissions},
        os::unix::{
            fs::{PermissionsExt as _, symlink},
            net::UnixListener,
        },
    };

    use super::*;

    #[test]
    fn a_path_in_a_sandbox_need_not_be_utf8() {
        assert_eq!(
            parse_location(OsStr::from_bytes(b"shop:a/Sal\xe9.txt")),
            Location::Remote {
                project: "shop".into(),
                path: b"a/Sal\xe9.txt".to_vec()
            }
        );
        assert_eq!(
            url("shop", b"a/Sal\xe9"),
            "/api/projects/shop/files?path=a%2FSal%E9"
        );
        for local in ["./a:b", "/a:b", ":b", "plain"] {
            assert_eq!(
                parse_location(OsStr::new(local)),
                Location::Local(PathBuf::from(local))
            );
        }
    }

    #[test]
    fn a_folder_is_packed_without_its_sockets_and_set_id_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("d")).unwrap();
        let _socket = UnixListener::bind(path("d/socket")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(path("d/file"), "text").unwrap();
        fs::write(path("tool"), "#!").unwrap();
        fs::set_permissions(path("d/file"), Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(path("tool"), Permissions::from_mode(0o6755)).unwrap();
        symlink("nowhere", path("link")).unwrap();

        let mut archive = Builder::new(Vec::new());
        archive.follow_symlinks(false);
        let mut skipped = pack(&mut archive, folder.path()).unwrap();
        skipped.sort();
        assert_eq!(skipped, [path("./d/socket"), path("./fifo")]);
        let packed = archive.into_inner().unwrap();
        let mut modes = BTreeMap::new();
        for entry in tar::Archive::new(&*packed).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mode = entry.header().mode().unwrap() & 0o7777;
            modes.insert(name.trim_matches(['.', '/']).to_owned(), (mode, content));
        }
        assert_eq!(modes["d/file"], (0o640, "text".into()));
        assert_eq!(modes["tool"], (0o755, "#!".into()));
        assert!(modes.contains_key("link") && modes.contains_key("d"), "{modes:?}");
        assert!(
            !modes.contains_key("fifo") && !modes.contains_key("d/socket"),
            "{modes:?}"
        );
    }
}
