//! sandboxd: process 1 of every sandbox, on every driver.
//!
//! It reaps orphans, supervises the start command, and gives the control plane access to the sandbox.
//! HTTP/1.1 over a Unix socket or TCP, `Authorization: Bearer <control token>` on every request:
//!
//! | route | what |
//! |---|---|
//! | `GET /v1/status` | [`Status`](fsa_model::sandboxd::Status) |
//! | `GET /v1/watch` | the status as JSON lines: at once, then at each change |
//! | `GET /v1/usage` | [`Usage`](fsa_model::sandboxd::Usage) |
//! | `POST /v1/exec` | [`ExecRequest`](fsa_model::sandboxd::ExecRequest) → [`ExecResult`](fsa_model::sandboxd::ExecResult); a client that disconnects kills the command |
//! | `GET /v1/exec` | a WebSocket: [`ExecRequest`](fsa_model::sandboxd::ExecRequest) as the first text, then [`ExecMessage`](fsa_model::sandboxd::ExecMessage) |
//! | `PUT /v1/tasks/{id}` | [`ExecRequest`](fsa_model::sandboxd::ExecRequest): a command that runs without a connected client; 201, or 200 if it was started before |
//! | `GET /v1/tasks/{id}?after=&wait=` | [`TaskOutput`](fsa_model::sandboxd::TaskOutput) |
//! | `DELETE /v1/tasks/{id}` | 202: it is being stopped; 204: it had ended, and is removed |
//! | `GET, HEAD /v1/files?path=` | a file (`ETag`, `Last-Modified`); `list=true`: [`FileEntry`](fsa_model::sandboxd::FileEntry) list; a folder with `Accept: application/x-tar`: an archive |
//! | `GET, HEAD /v1/project-files?path=` | the same, confined to the project's folder: a link that leads out of it is refused |
//! | `PUT /v1/files?path=` | writes a file (`mode=0755`, `If-Match`): 201 new, 204 replaced; with `Content-Type: application/x-tar` unpacks into the folder |
//! | `DELETE /v1/files?path=` | 204; a folder that is not empty with `recursive=true` only |
//! | `POST /v1/move` | [`MoveRequest`](fsa_model::sandboxd::MoveRequest), 204 |
//! | `GET /v1/terminal?session=&user=` | a WebSocket with the subprotocol `tty` ([`fsa_model::tty`]) |
//! | `GET /v1/terminal/watch?session=` | the same, read-only |
//! | `GET /v1/terminals`, `DELETE /v1/terminals/{name}` | the sessions; hangs up a session |
//! | `GET /v1/logs?after=&follow=` | [`LogLine`](fsa_model::sandboxd::LogLine) as JSON lines |
//! | `POST /v1/restart-start-command` | 202; 409 where there is none |
//! | `POST /v1/asks` | upgraded to `fsa-asks`: from then on sandboxd is the client ([`fsa_model::callback`]) |
//! | `POST /v1/clone` | 202: retries a failed clone |
//! | `CONNECT 127.0.0.1:PORT` | a tunnel to the port; 502 if nothing listens on it |
//!
//! Files and exec take `user=root` or `user=dev`, the person, which is the default. Paths are
//! absolute or relative to the project's folder. Errors are
//! [`ErrorBody`](fsa_model::error::ErrorBody).
//!
//! On the sandbox's loopback a port forwards programs' requests to the control plane ([`callback`]).
//! With `--terminal` another port serves the terminal and nothing else
//! ([`routes::terminal_port`]).
//!
//! One thread runs everything; blocking file operations run on a few more, which end when idle.

pub mod boot;
pub mod callback;
pub mod environment;
pub mod exec;
pub mod files;
pub mod http;
pub mod logs;
pub mod options;
pub mod poll_scheduler;
pub mod poll_trigger;
pub mod ports;
pub mod pty;
pub mod reaper;
pub mod routes;
pub mod sandbox;
pub mod session;
pub mod setup;
pub mod spawn;
pub mod start;
pub mod stop;
pub mod terminal;
pub mod tunnel;
pub mod usage;
pub mod user;
