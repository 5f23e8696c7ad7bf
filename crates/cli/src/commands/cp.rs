//! `fsa cp`: files and folders in and out of a sandbox.

use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;
use reqwest::{Body, Method, header};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::{
    args::Cp,
    client::{self, Client, encoded},
    failure::{Failure, Outcome},
};

const TAR: &str = "application/x-tar";

/// One side of a copy.
enum Side {
    Here(PathBuf),
    There { project: String, path: String },
}

pub async fn run(client: &Client, cp: &Cp) -> Outcome {
    match (side(&cp.source), side(&cp.target)) {
        (Side::Here(source), Side::There { project, path }) => upload(client, &source, &project, &path).await,
        (Side::There { project, path }, Side::Here(target)) => {
            download(client, &project, &path, &target).await
        }
        _ => Err(Failure::usage(
            "one of SOURCE and TARGET must be PROJECT:PATH, and the other a local path",
        )),
    }
}

/// `name:path` is in a sandbox where `name` could be a project; `./a:b` and `/a:b` are local.
fn side(text: &str) -> Side {
    match text.split_once(':') {
        Some((project, path)) if !project.is_empty() && !project.contains(['/', '.']) => Side::There {
            project: project.to_owned(),
            path: path.to_owned(),
        },
        _ => Side::Here(PathBuf::from(text)),
    }
}

fn url(project: &str, path: &str) -> String {
    format!(
        "/api/projects/{}/files?path={}",
        encoded(project),
        encoded(if path.is_empty() { "." } else { path })
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
        let packing = tokio::task::spawn_blocking(move || {
            let mut archive = tar::Builder::new(SyncIoBridge::new(writer));
            archive.follow_symlinks(false);
            archive.append_dir_all(".", &folder)?;
            archive.into_inner()?.shutdown()
        });
        let request = client
            .request(Method::PUT, &url(project, path))
            .header(header::CONTENT_TYPE, TAR)
            .body(Body::wrap_stream(ReaderStream::with_capacity(reader, 256 * 1024)));
        let answer = client::sent(request).await;
        let packed = packing
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        answer?;
        packed
            .map_err(|error| Failure::failed(format!("{} could not be read: {error}", source.display())))?;
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
        client::sent(request).await?;
    }
    Ok(0)
}

async fn download(client: &Client, project: &str, path: &str, target: &Path) -> Outcome {
    let request = client
        .request(Method::GET, &url(project, path))
        .header(header::ACCEPT, format!("{TAR}, */*;q=0.5"));
    let response = client::sent(request).await?;
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
