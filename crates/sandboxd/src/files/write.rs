//! File upload: writes one file atomically, into a temporary file beside it that is then renamed.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use headers::HeaderMapExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt};

use super::{
    PIECE, Subject, check,
    conditions::{Conditions, FailedPrecondition},
    is_hole, precondition_error,
    tree::rename_new,
    version,
};
use crate::{
    http::{ApiError, RouteResult, status},
    user::{User, with_fs_ids_of},
};

/// Mode of a new file.
const DEFAULT_MODE: u32 = 0o644;

/// Held from the check of a precondition to the change: of two requests with the same one, the second sees what the
/// first did.
pub(super) static CHANGE_LOCK: Mutex<()> = Mutex::new(());

/// Parses the parameter `mode`.
pub(super) fn mode(text: &str) -> Result<u32, ApiError> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| ApiError::field("mode", "permissions are octal digits, such as 0755"))
}

/// Upload in progress. Dropped before the rename, the temporary file is removed.
struct Upload {
    user: User,
    temporary: PathBuf,
    target: PathBuf,
    placed: bool,
}

/// Mode and owner of the file that is replaced.
struct ReplacedFile {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// `PUT` of one file.
pub(super) async fn put(subject: &Subject, request: Request<Incoming>, mode: Option<u32>) -> RouteResult {
    let conditions = Conditions::new(request.headers());
    let early = conditions.clone();
    let failed = |error: io::Error| subject.api_error(&error);
    let (mut upload, file, before) = subject
        .as_user(move |path, user| begin(path, user, &early))
        .await
        .map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    file.set_max_buf_size(4 * PIECE);
    let mut length = 0;
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!(
                "{}: the upload broke off, and nothing was changed: {error}",
                subject.shown
            ))
        })?;
        if let Ok(bytes) = frame.into_data() {
            length += bytes.len() as u64;
            if is_hole(&bytes) {
                file.seek(io::SeekFrom::Start(length)).await.map_err(failed)?;
            } else {
                file.write_all(&bytes).await.map_err(failed)?;
            }
        }
    }
    file.flush().await.map_err(failed)?;
    file.set_len(length).await.map_err(failed)?;
    let file = file.into_std().await;
    let (temporary, target) = (upload.temporary.clone(), upload.target.clone());
    let is_new = before.is_none();
    let tag = subject
        .as_user(move |_, user| {
            if let Some(before) = &before
                && user.uid == 0
            {
                fchown(&file, Some(before.uid), Some(before.gid))?;
            }
            let mode = mode.or(before.map(|before| before.mode)).unwrap_or(DEFAULT_MODE);
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            place(&temporary, &target, &conditions).inspect_err(|_| {
                // Before the response, so that a client sees no leftover.
                let _ = fs::remove_file(&temporary);
            })?;
            Ok(version(&file.metadata()?)?.tag)
        })
        .await
        .map_err(failed)?;
    upload.placed = true;
    let mut response = status(if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::NO_CONTENT
    });
    response.headers_mut().typed_insert(tag);
    Ok(response)
}

fn begin(
    path: &Path,
    user: &User,
    conditions: &Conditions,
) -> io::Result<(Upload, fs::File, Option<ReplacedFile>)> {
    let target = match fs::symlink_metadata(path) {
        // Writing to a link writes to its target, as open(2) does.
        Ok(found) if found.is_symlink() => fs::canonicalize(path)?,
        _ => path.to_owned(),
    };
    check(&target, conditions)?;
    let before = match fs::metadata(&target) {
        Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => {
            return Err(io::Error::other(ApiError::conflict(format!(
                "{}: it is not a regular file",
                path.display()
            ))));
        }
        Ok(found) => Some(ReplacedFile {
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let (Some(folder), Some(_)) = (target.parent(), target.file_name()) else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    fs::create_dir_all(folder)?;
    let (temporary, file) = temporary(folder)?;
    Ok((
        Upload {
            user: user.clone(),
            temporary,
            target,
            placed: false,
        },
        file,
        before,
    ))
}

/// Gives the upload its name, if the preconditions hold now.
fn place(temporary: &Path, target: &Path, conditions: &Conditions) -> io::Result<()> {
    let _changing = CHANGE_LOCK.lock();
    check(target, conditions)?;
    // A program in the sandbox may create the file after the check.
    if conditions.refuses_any() && fs::symlink_metadata(target).is_err() {
        return rename_new(temporary, target).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                io::Error::other(precondition_error(target, FailedPrecondition::Exists))
            }
            _ => error,
        });
    }
    fs::rename(temporary, target)
}

fn temporary(folder: &Path) -> io::Result<(PathBuf, fs::File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".fsa-upload-{}-{number}", std::process::id()));
        match fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            // Left over from a killed sandbox.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (path, file)),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        let (user, temporary) = (self.user.clone(), self.temporary.clone());
        tokio::task::spawn_blocking(move || {
            let _ = with_fs_ids_of(&user, || fs::remove_file(temporary));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("0755").unwrap(), 0o755);
        assert_eq!(mode("644").unwrap(), 0o644);
        for wrong in ["", "rwx", "8", "77777"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}
