//! File download: a file's bytes, or a folder as a tar archive.

use std::{fs, sync::Arc};

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use nix::fcntl::OFlag;
use tokio_util::io::ReaderStream;

use super::{PIECE, Subject, TAR, etag, tar_out};
use crate::{
    http::{Answer, Refusal, empty, status, streamed, typed},
    sandbox::Sandbox,
};

/// `GET` of one path.
pub(super) async fn get(
    sandbox: &Arc<Sandbox>,
    subject: &Subject,
    headers: &HeaderMap,
    tar: bool,
    head: bool,
) -> Answer {
    // Without O_NONBLOCK, opening a named pipe would wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let (file, found) = subject
        .opened(flags, |handle| {
            let file = fs::File::from(handle);
            let found = file.metadata()?;
            Ok((file, found))
        })
        .await
        .map_err(|error| subject.refusal(&error))?;
    if found.is_dir() {
        if !tar {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "IsFolder",
                format!(
                    "{} is a folder; ask with list=true, or with Accept: {TAR}",
                    subject.shown
                ),
            ));
        }
        return Ok(typed(
            TAR,
            if head {
                empty()
            } else {
                tar_out::body(sandbox, subject, file.into())
            },
        ));
    }
    if !found.is_file() {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "NotFile",
            format!("{} is neither a file nor a folder", subject.shown),
        ));
    }
    let tag = etag(&found);
    let unchanged = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| {
            tags.split(',')
                .any(|known| known.trim().trim_start_matches("W/") == tag)
        });
    let mut response = if unchanged {
        status(StatusCode::NOT_MODIFIED)
    } else if head {
        typed("application/octet-stream", empty())
    } else {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(PIECE);
        // No more than Content-Length says, even if the file grows meanwhile.
        let file = tokio::io::AsyncReadExt::take(file, found.len());
        typed(
            "application/octet-stream",
            streamed(ReaderStream::with_capacity(file, PIECE)),
        )
    };
    let headers = response.headers_mut();
    if !unchanged {
        headers.insert(header::CONTENT_LENGTH, found.len().into());
    }
    let changed = found.modified().map(|time| {
        DateTime::<Utc>::from(time)
            .format("%a, %d %b %Y %T GMT")
            .to_string()
    });
    for (name, value) in [(header::ETAG, Some(tag)), (header::LAST_MODIFIED, changed.ok())] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}
