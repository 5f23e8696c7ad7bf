//! The wire types between the control plane and sandboxd, process 1 of every sandbox.
//!
//! HTTP/1.1, `Authorization: Bearer <control token>`; the routes are listed in
//! `crates/sandboxd/src/lib.rs`. What sandboxd answers is not trusted: the sandbox's root could
//! have replaced it.

pub mod paths;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::spec::Repository;

/// The descriptor on which sandboxd finds its listening control socket, where it was given one.
pub const LISTENER_FD: i32 = 3;
/// The descriptor from which sandboxd reads its [`Boot`] as JSON, up to the end of the file.
pub const BOOT_FD: i32 = 4;
/// Where sandboxd is found in every sandbox, whatever the image.
pub const SANDBOXD_PATH: &str = "/.fsa/sandboxd";
/// The person's user in a sandbox.
pub const USER_NAME: &str = "dev";
/// Its user and group id, which most images leave free.
pub const USER_ID: u32 = 1000;
/// Its home: a volume that outlives the sandbox.
pub const HOME: &str = "/home/dev";
/// Where the repository is cloned, the start command runs and terminals open.
pub const PROJECT_FOLDER: &str = "/home/dev/project";
/// The port of the terminal and of nothing else.
pub const TERMINAL_PORT: u16 = 7681;
/// The ports that are known by name in URLs and Services.
pub const KNOWN_PORTS: [u16; 4] = [3000, 5000, TERMINAL_PORT, 8080];

/// Everything that sandboxd is told, once, when it starts. It travels through a descriptor, so
/// that no secret is in a file, an argument or process 1's environment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Boot {
    #[serde(serialize_with = "exposed")]
    pub control_token: SecretString,
    /// The host name to set.
    pub hostname: String,
    /// The environment of everything that sandboxd starts.
    #[serde(serialize_with = "all_exposed")]
    pub environment: BTreeMap<String, SecretString>,
    #[serde(default)]
    pub start_command: Option<String>,
    #[serde(default)]
    pub repository: Option<Repository>,
    /// Lines for `/etc/resolv.conf` and `/etc/hosts`, where the runtime does not provide them.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// What the terminal's own port asks for, where it is served at all. It opens the terminal
    /// and nothing else.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "maybe_exposed"
    )]
    pub terminal_token: Option<SecretString>,
}

fn maybe_exposed<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret
        .as_ref()
        .map(ExposeSecret::expose_secret)
        .serialize(serializer)
}

fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

fn all_exposed<S: Serializer>(
    all: &BTreeMap<String, SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(all.iter().map(|(name, value)| (name, value.expose_secret())))
}

/// `GET /v1/status`: what is so now. `GET /v1/watch` sends one of these as a JSON line at once
/// and then whenever it changes (ports, start command, repository), so that nobody has to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    /// Terminals can be opened.
    pub ready: bool,
    pub ports: Vec<ListeningPort>,
    pub start_command: StartCommand,
    pub repository: RepositoryState,
    /// Somebody in the sandbox asks the control plane for something, and there is no connection
    /// on which to ask ([`crate::callback`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asking: bool,
}

/// A TCP port that something in the sandbox listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListeningPort {
    pub port: u16,
    /// The name of the process, where it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// The supervised start command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum StartCommand {
    /// There is none, and no Procfile.
    #[default]
    None,
    /// It waits for the repository.
    Waiting,
    Running {
        pid: u32,
        since: DateTime<Utc>,
        restarts: u32,
    },
    /// It ended and is started again at `next_attempt`.
    #[serde(rename_all = "camelCase")]
    BackOff {
        exit: Exit,
        restarts: u32,
        next_attempt: DateTime<Utc>,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The shell's way: 128 + signal for a process that a signal ended.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// The clone of the repository before the first start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum RepositoryState {
    #[default]
    None,
    Cloning,
    Cloned,
    /// git's own words, without credentials. Nothing half-made is left.
    Failed {
        message: String,
    },
}

/// `POST /v1/exec`, and the first text message of `GET /v1/exec` as a WebSocket.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments; no shell is put in between.
    pub command: Vec<String>,
    /// Absolute, or relative to the project's folder, which is the default.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Added to the sandbox's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Written to standard input, which is then closed.
    #[serde(default)]
    pub stdin: Option<String>,
    /// After this long the whole process group is killed. 1 to 3600, default 60.
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
    /// `dev` (default) or `root`.
    #[serde(default)]
    pub user: Option<String>,
}

/// The answer to `POST /v1/exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecResult {
    /// 128 + n where signal n ended it, 124 where the time ran out (as timeout(1) has it).
    pub exit_code: i32,
    /// At most [`EXEC_OUTPUT_LIMIT`] bytes; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    pub stderr: String,
    /// Output was left out because it went past the limit.
    pub truncated: bool,
    #[serde(default)]
    pub timed_out: bool,
}

/// Bytes of standard output, and as many of standard error, that an exec's answer carries.
pub const EXEC_OUTPUT_LIMIT: usize = 1024 * 1024;

/// `GET /v1/tasks/{id}?after=&wait=`: what a task wrote after a position, in whole lines. Asking
/// for what is after a position says that what is before it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskOutput {
    /// The position after these lines.
    pub next: u64,
    pub lines: Vec<String>,
    /// It has ended, and these are the last lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskEnd>,
}

/// How a task's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskEnd {
    pub exit_code: i32,
    pub timed_out: bool,
    /// The last of what it wrote to standard error.
    pub stderr: String,
}

/// The streaming exec over a WebSocket. Binary messages carry bytes with a first byte that says
/// which: from the client 0 = standard input; from the sandbox 1 = standard output,
/// 2 = standard error. Text messages are one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ExecMessage {
    /// Client: no more input.
    Eof,
    /// Client: send this signal to the process group.
    Signal { signal: i32 },
    /// Sandbox, last: how it ended.
    #[serde(rename_all = "camelCase")]
    Exit { exit_code: i32, timed_out: bool },
    /// Sandbox, last: it could not be started.
    Error { message: String },
}

/// One entry of `GET /v1/files?path=…&list=true`, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    pub name: String,
    pub kind: FileKind,
    pub size: u64,
    /// The lowest twelve bits: permissions, set-ids and sticky.
    pub mode: u32,
    pub modified_at: DateTime<Utc>,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// `POST /v1/move`: renames a file or folder within one file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MoveRequest {
    /// Absolute, or relative to the project's folder, as is `to`.
    pub from: String,
    pub to: String,
    /// Replace a file that is at `to` already.
    #[serde(default)]
    pub overwrite: bool,
    /// `dev` (default) or `root`.
    #[serde(default)]
    pub user: Option<String>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// One line of `GET /v1/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// Grows by one with each line of this sandbox's life; `?after=` takes it.
    pub sequence: u64,
    pub at: DateTime<Utc>,
    pub source: LogSource,
    pub text: String,
}

/// Where a log line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The start command's standard output.
    Stdout,
    /// The start command's standard error.
    Stderr,
    /// The clone of the repository.
    Git,
    /// sandboxd's own words about starts, exits and restarts.
    Sandbox,
}

/// One terminal session in `GET /v1/terminals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TerminalSession {
    pub name: String,
    pub title: String,
    pub viewers: u32,
    pub columns: u16,
    pub rows: u16,
    pub created_at: DateTime<Utc>,
}

/// What a sandbox uses at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Processor time since the start.
    pub cpu_microseconds: u64,
    pub memory_bytes: u64,
    #[serde(default)]
    pub memory_limit_bytes: u64,
    pub pids: u64,
    /// Of the home volume and of the root file system's changes.
    #[serde(default)]
    pub disk_bytes: u64,
}
