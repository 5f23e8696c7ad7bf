//! `fsa cp`: copies files and folders to and from a sandbox.

use std::{
    io::{Read as _, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt as _;
use reqwest::{Body, Method, header};
use tar::{Builder, Header};
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

/// Source or target of a copy.
enum Location {
    Local(PathBuf),
    Remote { project: String, path: String },
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
fn parse_location(text: &str) -> Location {
    match text.split_once(':') {
        Some((project, path)) if !project.is_empty() && !project.contains(['/', '.']) => Location::Remote {
            project: project.to_owned(),
            path: path.to_owned(),
        },
        _ => Location::Local(PathBuf::from(text)),
    }
}

fn url(project: &str, path: &str) -> String {
    format!(
        "/api/projects/{}/files?path={}",
        encode(project),
        encode(if path.is_empty() { "." } else { path })
    )
}

async fn upload(client: &Client, source: &Path, project: &str, path: &str) -> Outcome {
    let metadata = std::fs::metadata(source)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", source.display())))?;
    let name = source
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
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
        let target = if path.is_empty() || path.ends_with('/') {
            format!("{path}{name}")
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

async fn download(client: &Client, project: &str, path: &str, target: &Path) -> Outcome {
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
        let name = path.rsplit('/').next().unwrap_or(path);
        let target = if target.is_dir() {
            target.join(name)
        } else {
            target.to_owned()
        };
        let mut file = tokio::fs::File::create(&target)
            .await
            .map_err(|error| Failure::failed(format!("{} cannot be written: {error}", target.display())))?;
        tokio::io::copy(&mut reader, &mut file).await?;
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
