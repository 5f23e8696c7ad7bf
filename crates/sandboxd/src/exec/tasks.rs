//! `/v1/tasks/{id}`: a command that runs without a connected client.
//!
//! sandboxd owns the process and buffers its output until the reader acknowledges it: a reader sends
//! the position up to which it has read, and the output before that is dropped. So no output is lost
//! when the reader restarts. Without a reader a bounded amount is buffered, and then the process
//! blocks in its write.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fsa_model::{
    callback,
    sandboxd::{ExecRequest, TaskEnd, TaskOutput},
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::{net::unix::pipe, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{CHUNK, Running, ended, refuse_terminal, start, stream::write_all};
use crate::{
    http::{ApiError, Query, RouteResult, json, read_json, status},
    sandbox::Sandbox,
    session,
};

/// Bytes of output that are buffered; beyond, the process blocks.
const MAX_BUFFERED_OUTPUT: usize = 4 * 1024 * 1024;
/// Bytes of the end of standard error that are kept.
const MAX_STDERR_TAIL: usize = 16 * 1024;
/// Bytes of output in one response.
const MAX_RESPONSE_OUTPUT: usize = 512 * 1024;
/// Maximum number of tasks, including ended ones that were not deleted.
const MAX_TASKS: usize = 8;
/// Longest timeout of a task, in seconds.
const MAX_TASK_SECONDS: u32 = 86_400;
/// Seconds that a reader may wait for output.
const MAX_WAIT_SECONDS: u64 = 30;
/// Time between SIGTERM and SIGKILL: an agent saves its conversation.
const GRACE: Duration = Duration::from_secs(10);

/// The tasks of this sandbox, by their ids.
#[derive(Debug, Default)]
pub struct Tasks(Mutex<BTreeMap<String, Arc<Task>>>);

#[derive(Debug)]
struct Task {
    output: Mutex<OutputBuffer>,
    /// Grows whenever output is added or dropped.
    changes: watch::Sender<u64>,
    cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct OutputBuffer {
    /// Position of the first buffered byte.
    start: u64,
    stdout: VecDeque<u8>,
    /// The end of standard error.
    stderr: VecDeque<u8>,
    /// Exit code, and whether the task timed out.
    end: Option<(i32, bool)>,
}

/// Handles a request for a task.
///
/// # Errors
/// There is no such task, or the request is wrong.
pub async fn route(
    sandbox: &Arc<Sandbox>,
    tasks: &Tasks,
    id: &str,
    request: Request<Incoming>,
) -> RouteResult {
    let valid = (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !valid {
        return Err(ApiError::bad_request(
            "a task's id has up to 64 letters, digits and dashes",
        ));
    }
    match *request.method() {
        Method::PUT => {
            let request = read_json(request.into_body()).await?;
            begin(sandbox, tasks, id, request)
        }
        Method::GET => {
            let query = Query::of(request.uri());
            let number = |name: &str| {
                let text = query.get(name).unwrap_or("0");
                text.parse::<u64>()
                    .map_err(|_| ApiError::field(name, "it is a number"))
            };
            let (after, wait) = (number("after")?, number("wait")?.min(MAX_WAIT_SECONDS));
            let task = find(tasks, id)?;
            Ok(json(&read(&task, after, Duration::from_secs(wait)).await))
        }
        Method::DELETE => {
            let task = find(tasks, id)?;
            if task.output.lock().end.is_some() {
                tasks.0.lock().remove(id);
                return Ok(status(StatusCode::NO_CONTENT));
            }
            task.cancel.cancel();
            Ok(status(StatusCode::ACCEPTED))
        }
        _ => Err(ApiError::not_found("a task takes PUT, GET and DELETE")),
    }
}

fn find(tasks: &Tasks, id: &str) -> Result<Arc<Task>, ApiError> {
    let task = tasks.0.lock().get(id).cloned();
    task.ok_or_else(|| ApiError::not_found(format!("there is no task `{id}`")))
}

/// Starts the task unless it exists: the client may repeat a request whose response was lost.
fn begin(sandbox: &Arc<Sandbox>, tasks: &Tasks, id: &str, mut request: ExecRequest) -> RouteResult {
    let mut tasks = tasks.0.lock();
    if tasks.contains_key(id) {
        return Ok(status(StatusCode::OK));
    }
    if tasks.len() >= MAX_TASKS {
        // Ended tasks that the client has not deleted.
        tasks.retain(|_, task| task.output.lock().end.is_none());
    }
    if tasks.len() >= MAX_TASKS {
        return Err(ApiError::conflict(format!(
            "there are {MAX_TASKS} tasks already; wait until one has ended"
        )));
    }
    let limit = match request.timeout_seconds.take() {
        Some(seconds @ 1..=MAX_TASK_SECONDS) => Some(Duration::from_secs(seconds.into())),
        None => None,
        Some(_) => {
            return Err(ApiError::field(
                "timeoutSeconds",
                format!("it is from 1 to {MAX_TASK_SECONDS}"),
            ));
        }
    };
    let token = sandbox.callback_token.expose();
    for (name, value) in &sandbox.environment {
        // The token with the task's id, so that the cost of its model calls is counted for the task.
        if secrecy::ExposeSecret::expose_secret(value) == token {
            request
                .env
                .entry(name.clone())
                .or_insert_with(|| callback::task_token(token, id));
        }
    }
    let input = request.stdin.take().unwrap_or_default();
    refuse_terminal(&request)?;
    let running = start(sandbox, &request)?;
    let task = Arc::new(Task {
        output: Mutex::default(),
        changes: watch::Sender::new(0),
        cancel: CancellationToken::new(),
    });
    tasks.insert(id.to_owned(), Arc::clone(&task));
    drop(tasks);
    tokio::spawn(run(Arc::clone(sandbox), task, running, input, limit));
    Ok(status(StatusCode::CREATED))
}

/// Buffers the output of the process until it has ended.
async fn run(
    sandbox: Arc<Sandbox>,
    task: Arc<Task>,
    mut running: Running,
    input: String,
    limit: Option<Duration>,
) {
    if let Some(stdin) = running.stdin.take() {
        tokio::spawn(feed(stdin, input));
    }
    let pid = running.pid;
    let mut changes = task.changes.subscribe();
    let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut cancelled = false;
    let mut end = Box::pin(ended(&mut running.exit, &sandbox, pid, limit));
    let ended = loop {
        changes.mark_unchanged();
        let room = task.output.lock().stdout.len() < MAX_BUFFERED_OUTPUT;
        tokio::select! {
            ended = &mut end => break ended,
            () = task.cancel.cancelled(), if !cancelled => {
                cancelled = true;
                let sandbox = Arc::clone(&sandbox);
                tokio::spawn(async move {
                    session::end(&sandbox.reaper, pid, libc::SIGTERM, GRACE).await;
                });
            }
            length = running.stdout.read(&mut out), if room => task.add_stdout(&out[..length]),
            length = running.stderr.read(&mut err) => task.add_stderr(&err[..length]),
            _ = changes.changed(), if !room => {}
        }
        // A process that never stops writing must not starve other tasks.
        tokio::task::yield_now().await;
    };
    drop(end);
    // A pipe holds 64 KiB; the bound is for one that another process fills meanwhile.
    for _ in 0..16 {
        let Some(length) = running.stdout.read_now(&mut out) else {
            break;
        };
        task.add_stdout(&out[..length]);
    }
    for _ in 0..16 {
        let Some(length) = running.stderr.read_now(&mut err) else {
            break;
        };
        task.add_stderr(&err[..length]);
    }
    running.finish();
    task.output.lock().end = Some(ended);
    task.changed();
}

async fn feed(stdin: pipe::Sender, input: String) {
    // The process need not read its input.
    let _ = write_all(&stdin, input.as_bytes()).await;
}

impl Task {
    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn add_stdout(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.output.lock().stdout.extend(bytes);
            self.changed();
        }
    }

    fn add_stderr(&self, bytes: &[u8]) {
        let stderr = &mut self.output.lock().stderr;
        stderr.extend(bytes);
        let excess = stderr.len().saturating_sub(MAX_STDERR_TAIL);
        stderr.drain(..excess);
    }
}

/// Returns the output after a position, as soon as there is some.
async fn read(task: &Task, after: u64, wait: Duration) -> TaskOutput {
    let mut changes = task.changes.subscribe();
    let next = async {
        loop {
            changes.mark_unchanged();
            let (output, freed) = {
                let mut buffer = task.output.lock();
                let freed = buffer.acknowledge(after);
                (buffer.next(), freed)
            };
            if freed {
                task.changed();
                changes.mark_unchanged();
            }
            if !output.lines.is_empty() || output.end.is_some() {
                return output;
            }
            if changes.changed().await.is_err() {
                return output;
            }
        }
    };
    match timeout(wait, next).await {
        Ok(output) => output,
        Err(_) => task.output.lock().next(),
    }
}

impl OutputBuffer {
    /// Drops the output before a position. Returns whether there was any.
    fn acknowledge(&mut self, position: u64) -> bool {
        let count = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let count = count.min(self.stdout.len());
        self.stdout.drain(..count);
        self.start += count as u64;
        if self.stdout.is_empty() {
            self.stdout.shrink_to(CHUNK);
        }
        count > 0
    }

    /// The next whole lines, and the task's end if no output is left before it.
    fn next(&mut self) -> TaskOutput {
        let bytes = self.stdout.make_contiguous();
        let piece = &bytes[..bytes.len().min(MAX_RESPONSE_OUTPUT)];
        let whole = match memchr::memrchr(b'\n', piece) {
            Some(end) => end + 1,
            // A line that is longer than a response is split; the last line may have no line end.
            None if piece.len() == MAX_RESPONSE_OUTPUT || self.end.is_some() => piece.len(),
            None => 0,
        };
        let text = String::from_utf8_lossy(&piece[..whole]);
        let lines = text.lines().map(ToOwned::to_owned).collect();
        let end = self
            .end
            .filter(|_| whole == bytes.len())
            .map(|(exit_code, timed_out)| TaskEnd {
                exit_code,
                timed_out,
                stderr: String::from_utf8_lossy(self.stderr.make_contiguous()).into_owned(),
            });
        TaskOutput {
            next: self.start + whole as u64,
            lines,
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(text: &str) -> OutputBuffer {
        OutputBuffer {
            stdout: text.bytes().collect(),
            ..OutputBuffer::default()
        }
    }

    #[test]
    fn whole_lines_are_returned_until_they_are_acknowledged() {
        let mut buffer = buffer("one\ntwo\nthr");
        let first = buffer.next();
        assert_eq!((first.lines, first.next), (vec!["one".into(), "two".into()], 8));
        assert_eq!(buffer.next().next, 8, "not acknowledged");
        assert!(buffer.acknowledge(8));
        assert!(buffer.next().lines.is_empty());
        buffer.stdout.extend(b"ee\n");
        let second = buffer.next();
        assert_eq!((second.lines, second.next), (vec!["three".to_owned()], 14));
        assert!(!buffer.acknowledge(8));
    }

    #[test]
    fn the_end_comes_with_the_last_line_even_if_that_has_no_line_end() {
        let mut buffer = buffer("one\ntwo");
        buffer.end = Some((3, false));
        let first = buffer.next();
        assert_eq!((first.lines.len(), first.end), (1, None));
        buffer.acknowledge(first.next);
        let last = buffer.next();
        assert_eq!(last.lines, ["two"]);
        assert_eq!(last.end.map(|end| end.exit_code), Some(3));
    }
}
