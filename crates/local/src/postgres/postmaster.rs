//! Server process (postmaster) of a cluster: detection, start, stop.
//!
//! `postmaster.pid` in the data folder has its state (PostgreSQL's `miscinit.c`,
//! `LOCK_FILE_LINE_*`): the process id on the first line, the progress on the eighth. Changes are
//! awaited by inotify and pidfd; nothing here polls.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::{
    fs::inotify,
    process::{Pid, PidfdFlags, Signal},
};
use tokio::{
    io::{AsyncReadExt as _, unix::AsyncFd},
    net::unix::pipe,
    time::Instant,
};

use super::{
    Cluster,
    binaries::Installation,
    error::{PostgresError, Result},
};

const PIDFILE: &str = "postmaster.pid";
/// For the server process to write its pid file.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(30);
/// For it to accept connections: after a crash it first replays up to `max_wal_size` of its log.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(600);
/// For the backends of a killed server process to notice that it is gone.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of output of a failed start that are kept.
const OUTPUT_MAX: u64 = 64 * 1024;

/// The progress of a server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Starting,
    Ready,
    Stopping,
}

/// The content of `postmaster.pid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    pid: i32,
    progress: Progress,
}

fn parse_record(text: &str) -> Option<Record> {
    let mut lines = text.lines();
    // Negative for a single-user server.
    let pid = lines.next()?.trim().parse::<i32>().ok()?.checked_abs()?;
    let progress = match lines.nth(6).map(str::trim) {
        Some("ready" | "standby") => Progress::Ready,
        Some("stopping") => Progress::Stopping,
        _ => Progress::Starting,
    };
    Some(Record { pid, progress })
}

fn record(folder: &Path) -> Option<Record> {
    parse_record(&fs::read_to_string(folder.join(PIDFILE)).ok()?)
}

/// Whether a process is a PostgreSQL server in this folder: its server process and all its
/// backends work in it. A process id alone proves nothing after a reboot.
fn works_in(pid: i32, folder: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let is_postgres =
        fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end() == "postgres");
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    is_postgres
        && fs::metadata(process.join("cwd"))
            .and_then(|cwd| fs::metadata(folder).map(|folder| same(&cwd, &folder)))
            .unwrap_or(false)
}

/// A live server process, held by pidfd.
pub(super) struct Postmaster {
    pid: Pid,
    end: AsyncFd<OwnedFd>,
}

impl Postmaster {
    /// The one that runs in `folder`, if any. Must be called in a tokio runtime.
    pub(super) fn find(folder: &Path) -> Option<Self> {
        Self::hold(record(folder)?.pid, folder)
    }

    fn hold(number: i32, folder: &Path) -> Option<Self> {
        let pid = Pid::from_raw(number)?;
        let end = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // After opening the pidfd, so that it is this process that is checked.
        works_in(number, folder).then_some(())?;
        Some(Self {
            pid,
            end: readable(end).ok()?,
        })
    }

    /// Returns when it has ended (pidfd_open(2): readable then).
    pub(super) async fn ended(&self) {
        let _ = self.end.readable().await;
    }

    pub(super) fn is_ready(&self, folder: &Path) -> bool {
        let pid = self.pid.as_raw_nonzero().get();
        record(folder)
            == Some(Record {
                pid,
                progress: Progress::Ready,
            })
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        rustix::process::pidfd_send_signal(self.end.get_ref(), signal).map_err(io::Error::from)
    }
}

/// A descriptor whose readability can be awaited. `AsyncFd` is deprecated for types that may close
/// their descriptor while it is watched; an [`OwnedFd`] does not, and the successor is `unsafe`.
#[allow(deprecated)]
fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)
}

/// Notifies of changes in a folder (inotify).
struct FolderWatch(AsyncFd<OwnedFd>);

impl FolderWatch {
    fn new(folder: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let events = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, folder, events)?;
        readable(fd).map(Self)
    }

    async fn changed(&self) {
        let mut buffer = [0_u8; 4096];
        if let Ok(mut ready) = self.0.readable().await {
            while rustix::io::read(self.0.get_ref(), &mut buffer[..]).is_ok_and(|read| read > 0) {}
            ready.clear_ready();
        }
    }
}

/// Starts the server where none runs, and returns when it takes connections. The caller holds
/// the cluster's lock.
pub(super) async fn start(cluster: &Cluster, installation: &Installation) -> Result<()> {
    let folder = cluster.folder();
    let watch =
        FolderWatch::new(folder).map_err(PostgresError::io("PostgreSQL's folder cannot be watched"))?;
    if let Some(running) = Postmaster::find(folder) {
        if record(folder).is_some_and(|record| record.progress == Progress::Stopping) {
            let ended = tokio::time::timeout(RECOVERY_TIMEOUT, running.ended()).await;
            ended.map_err(|_| slow(cluster, "the end of an earlier PostgreSQL", RECOVERY_TIMEOUT))?;
        } else {
            return ready(cluster, &watch, &running).await;
        }
    }
    end_orphans(folder).await;
    // The files are of a process that is gone, or whose id another process has; PostgreSQL checks
    // only the id.
    let socket = cluster.socket();
    for left in [folder.join(PIDFILE), socket.with_extension("5432.lock"), socket] {
        let _ = fs::remove_file(left);
    }

    let (reader, writer) = io::pipe().map_err(PostgresError::io("no pipe can be made"))?;
    let also = writer
        .try_clone()
        .map_err(PostgresError::io("no pipe can be made"))?;
    let mut command = cluster.command(installation, "pg_ctl");
    // pg_ctl starts the server in a new session and leaves it to process 1. The server and its
    // logger hold the pipe, so it ends only when the start has failed.
    command
        .args(["start", "--no-wait", "--pgdata"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(also);
    let status = command.status();
    let status = tokio::time::timeout(APPEAR_TIMEOUT, status)
        .await
        .map_err(|_| slow(cluster, "pg_ctl", APPEAR_TIMEOUT))?
        .map_err(PostgresError::io(format!(
            "{} cannot be run",
            installation.bin.join("pg_ctl").display()
        )))?;
    // It holds the pipe's other end until it is dropped.
    drop(command);

    let mut pipe = pipe::Receiver::from_owned_fd(reader.into())
        .map_err(PostgresError::io("PostgreSQL's output cannot be read"))?
        .take(OUTPUT_MAX);
    let mut output = Vec::new();
    if status.success() {
        let mut end = std::pin::pin!(pipe.read_to_end(&mut output));
        let started = Instant::now();
        loop {
            let deadline = match record(folder).map(|record| record.progress) {
                Some(Progress::Ready) => return Ok(()),
                Some(_) => started + RECOVERY_TIMEOUT,
                None => started + APPEAR_TIMEOUT,
            };
            tokio::select! {
                () = watch.changed() => {}
                _ = &mut end => break,
                () = tokio::time::sleep_until(deadline) => {
                    return Err(slow(cluster, "PostgreSQL's start", deadline - started));
                }
            }
        }
    } else {
        let _ = tokio::time::timeout(APPEAR_TIMEOUT, pipe.read_to_end(&mut output)).await;
    }
    Err(failed(cluster, &String::from_utf8_lossy(&output)))
}

/// Waits until a server that another process has started accepts connections.
async fn ready(cluster: &Cluster, watch: &FolderWatch, running: &Postmaster) -> Result<()> {
    let deadline = Instant::now() + RECOVERY_TIMEOUT;
    loop {
        match record(cluster.folder()) {
            Some(Record {
                progress: Progress::Ready,
                ..
            }) => return Ok(()),
            _ => tokio::select! {
                () = watch.changed() => {}
                () = running.ended() => return Err(failed(cluster, "")),
                () = tokio::time::sleep_until(deadline) => {
                    return Err(slow(cluster, "PostgreSQL's recovery after a crash", RECOVERY_TIMEOUT));
                }
            },
        }
    }
}

/// Waits for the backends of a killed server process; they end by themselves, except during a long
/// operation. PostgreSQL refuses to start beside one, and recovers from what they leave.
async fn end_orphans(folder: &Path) {
    let orphans: Vec<Postmaster> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| works_in(pid, folder))
        .filter_map(|pid| Postmaster::hold(pid, folder))
        .collect();
    let deadline = Instant::now() + ORPHANS_TIMEOUT;
    for orphan in &orphans {
        if tokio::time::timeout_at(deadline, orphan.ended()).await.is_err() {
            tracing::warn!(
                pid = orphan.pid.as_raw_nonzero(),
                "killing an orphaned PostgreSQL backend"
            );
            let _ = orphan.signal(Signal::KILL);
            let _ = tokio::time::timeout(ORPHANS_TIMEOUT, orphan.ended()).await;
        }
    }
}

/// Stops the server with PostgreSQL's fast shutdown; no error where none runs. Its logger ends a
/// moment after the server process, when all others have closed its pipe.
pub(super) async fn stop(cluster: &Cluster, timeout: Duration) -> Result<()> {
    let Some(running) = Postmaster::find(cluster.folder()) else {
        return Ok(());
    };
    running
        .signal(Signal::INT)
        .map_err(PostgresError::io("PostgreSQL cannot be stopped"))?;
    tokio::time::timeout(timeout, running.ended())
        .await
        .map_err(|_| slow(cluster, "PostgreSQL's stop", timeout))?;
    end_orphans(cluster.folder()).await;
    Ok(())
}

fn failed(cluster: &Cluster, output: &str) -> PostgresError {
    let output = format!("{output}\n{}", end_of_log(cluster));
    let what = format!("the start of {}", cluster.kind().title());
    let user = cluster.system_user().unwrap_or_default();
    PostgresError::from_output(&what, &output, cluster.folder(), &user)
}

fn slow(cluster: &Cluster, what: &str, timeout: Duration) -> PostgresError {
    PostgresError::Slow {
        what: what.to_owned(),
        seconds: timeout.as_secs(),
        advice: format!("its log is in {}", cluster.logs().display()),
    }
}

/// The last lines of the newest log of this cluster, without those that report no failure.
fn end_of_log(cluster: &Cluster) -> String {
    let prefix = format!("{}-", cluster.kind().name());
    let newest = fs::read_dir(cluster.logs())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok());
    let Some(bytes) = newest.and_then(|entry| fs::read(entry.path()).ok()) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4096)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_has_process_and_progress() {
        let text =
            |status: &str| format!("4711\n/data/p\n1700000000\n5432\n/run/p\n\n  5432001 3\n{status}\n");
        let progress = |status| parse_record(&text(status)).unwrap().progress;
        assert_eq!(parse_record(&text("ready   ")).unwrap().pid, 4711);
        assert_eq!(progress("ready   "), Progress::Ready);
        assert_eq!(progress("stopping"), Progress::Stopping);
        assert_eq!(
            parse_record("4711\n/data/p\n").unwrap().progress,
            Progress::Starting
        );
        assert_eq!(parse_record(""), None);
        assert_eq!(parse_record("many\n"), None);
    }

    #[tokio::test]
    async fn another_program_with_a_recorded_id_is_not_taken_for_the_server() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(PIDFILE), format!("{}\n", std::process::id())).unwrap();
        assert!(Postmaster::find(folder.path()).is_none());
    }
}
