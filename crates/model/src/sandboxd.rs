//! sandboxd's wire types: between the control plane and sandboxd, process 1 of every sandbox.
//!
//! HTTP/1.1, `Authorization: Bearer <control token>`; the routes are listed in
//! `crates/sandboxd/src/lib.rs`. sandboxd's responses are not trusted: the sandbox's root could
//! have replaced it.

pub mod paths;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{spec::Repository, tty::WindowSize};

/// Descriptor of sandboxd's listening control socket, if it inherits one.
pub const LISTENER_FD: i32 = 3;
/// Descriptor from which sandboxd reads its [`Boot`] as JSON, up to the end of the file.
pub const BOOT_FD: i32 = 4;
/// Path of sandboxd in every sandbox, whatever the image.
pub const SANDBOXD_PATH: &str = "/.fsa/sandboxd";
/// User that terminals, commands and the start command run as.
pub const USER_NAME: &str = "dev";
/// Its user and group id, which most images do not use.
pub const USER_ID: u32 = 1000;
/// Its home: a volume that outlives the sandbox.
pub const HOME: &str = "/home/dev";
/// Folder in which the repository is cloned, the start command runs and terminals open.
pub const PROJECT_FOLDER: &str = "/home/dev/project";
/// Port that serves the terminal and nothing else.
pub const TERMINAL_PORT: u16 = 7681;
/// Ports that have names in URLs and Services.
pub const KNOWN_PORTS: [u16; 4] = [3000, 5000, TERMINAL_PORT, 8080];

/// Boot document: everything that sandboxd gets when it starts. It is passed through a descriptor,
/// so that no secret is in a file, an argument or process 1's environment.
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
    /// Addresses for `/etc/resolv.conf`, if the runtime does not provide it.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// Token of the terminal port, if that is served. It is valid for the terminal only.
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

/// Current status: `GET /v1/status`. `GET /v1/watch` sends one as a JSON line at once and then
/// whenever it changes (ports, start command, repository), so that clients need not poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    /// Terminals can be opened.
    pub ready: bool,
    pub ports: Vec<ListeningPort>,
    pub start_command: StartCommand,
    pub repository: RepositoryState,
    /// What is missing in a clone: submodules, or files in Git LFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_warning: Option<String>,
    /// A program in the sandbox has a request for the control plane, and there is no connection to
    /// send it on ([`crate::callback`], which also says why the wire name differs).
    #[serde(rename = "asking", default, skip_serializing_if = "std::ops::Not::not")]
    pub callback_requested: bool,
}

/// TCP port on which a process in the sandbox listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListeningPort {
    pub port: u16,
    /// The name of the process, if it could be determined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// The supervised start command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum StartCommand {
    /// There is no start command and no Procfile.
    #[default]
    None,
    /// The start command waits for the repository.
    Waiting,
    Running {
        pid: u32,
        since: DateTime<Utc>,
        restarts: u32,
    },
    /// The process ended and is restarted at `next_attempt`.
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
    /// The exit code as a shell reports it: 128 + signal for a process that a signal ended.
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
    /// git's message, without credentials. No incomplete clone is left.
    Failed {
        message: String,
    },
}

/// `POST /v1/exec`, and the first text message of `GET /v1/exec` as a WebSocket.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments; no shell is involved.
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
    /// Runs the command on a pseudo-terminal of this size, over a WebSocket only. Its output comes as standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<WindowSize>,
}

/// Result of `POST /v1/exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecResult {
    /// 128 + n if signal n ended the command, 124 if it timed out (like timeout(1)).
    pub exit_code: i32,
    /// At most [`EXEC_OUTPUT_LIMIT`] bytes; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    pub stderr: String,
    /// Output beyond the limit was dropped.
    pub truncated: bool,
    #[serde(default)]
    pub timed_out: bool,
}

/// Maximum bytes of standard output, and as many of standard error, in an exec's result.
pub const EXEC_OUTPUT_LIMIT: usize = 1024 * 1024;

/// Output of a task after a position, in whole lines: `GET /v1/tasks/{id}?after=&wait=`. A request
/// for the output after a position acknowledges the output before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskOutput {
    /// The position after these lines.
    pub next: u64,
    pub lines: Vec<String>,
    /// Set when the task has ended and these are the last lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<TaskEnd>,
}

/// How a task's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskEnd {
    pub exit_code: i32,
    pub timed_out: bool,
    /// The end of its standard error.
    pub stderr: String,
}

/// Text message of the streaming exec over a WebSocket. Binary messages carry bytes after a first
/// byte with the stream: from the client 0 = standard input; from the sandbox 1 = standard output,
/// 2 = standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ExecMessage {
    /// Client: end of input.
    Eof,
    /// Client: the size of its terminal has changed.
    Resize(WindowSize),
    /// Client: send this signal to the process group.
    Signal { signal: i32 },
    /// Sandbox, last: how the command ended.
    #[serde(rename_all = "camelCase")]
    Exit { exit_code: i32, timed_out: bool },
    /// Sandbox, last: the command could not be started. A shell's exit code for it: 127 where there is no such
    /// command, 126 where it is not executable.
    #[serde(rename_all = "camelCase")]
    Error {
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<u8>,
    },
}

/// One entry of `GET /v1/files?path=…&list=true`, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Bytes that are not UTF-8 are replaced.
    pub name: String,
    /// The name percent-encoded, for the parameter `path`, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_name: Option<String>,
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
    #[serde(default)]
    pub from: String,
    #[serde(default)]
    pub to: String,
    /// In place of `from`, for a name that is not UTF-8: its bytes, percent-encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_from: Option<String>,
    /// In place of `to`, as `encodedFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoded_to: Option<String>,
    /// Replace an existing file at `to`.
    #[serde(default)]
    pub overwrite: bool,
    /// `dev` (default) or `root`.
    #[serde(default)]
    pub user: Option<String>,
}

impl MoveRequest {
    /// The bytes of the path to move from; `None` unless it is given once.
    #[must_use]
    pub fn source(&self) -> Option<Vec<u8>> {
        one_path(&self.from, self.encoded_from.as_deref())
    }

    /// The bytes of the path to move to; `None` unless it is given once.
    #[must_use]
    pub fn target(&self) -> Option<Vec<u8>> {
        one_path(&self.to, self.encoded_to.as_deref())
    }
}

fn one_path(plain: &str, encoded: Option<&str>) -> Option<Vec<u8>> {
    match encoded {
        None if plain.is_empty() => None,
        None => Some(plain.into()),
        Some(encoded) if plain.is_empty() && !encoded.is_empty() => Some(crate::percent::decode(encoded)),
        Some(_) => None,
    }
}

/// Type of a file.
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
    /// Grows by one with each line since the sandbox's start; `?after=` takes it.
    pub sequence: u64,
    pub at: DateTime<Utc>,
    pub source: LogSource,
    pub text: String,
}

/// Source of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The start command's standard output.
    Stdout,
    /// The start command's standard error.
    Stderr,
    /// The clone of the repository.
    Git,
    /// sandboxd: messages about starts, exits and restarts.
    Sandbox,
    /// The project's database server.
    Database,
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

/// Current resource usage of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Processor time since the start.
    pub cpu_microseconds: u64,
    pub memory_bytes: u64,
    #[serde(default)]
    pub memory_limit_bytes: u64,
    pub pids: u64,
    /// Disk usage of the home volume and of the root file system's changes.
    #[serde(default)]
    pub disk_bytes: u64,
    /// Limit of `diskBytes` that the kernel enforces; 0 for none.
    #[serde(default)]
    pub disk_limit_bytes: u64,
}
