//! `/v1/tasks/{id}`: a command that needs nobody to be connected.
//!
//! sandboxd owns the process and keeps what it wrote until somebody says that they have it: a
//! reader names the position up to which it has read, and what is before that is let go. Nothing
//! is lost when the reader is started anew, and where nobody reads, a bounded amount is kept and
//! then the process waits in its write.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fsa_model::sandboxd::{ExecRequest, TaskEnd, TaskOutput};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::{net::unix::pipe, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{CHUNK, Running, ended, start, stream::write_all};
use crate::{
    http::{Answer, Refusal, json, read_json, routes::Query, status},
    sandbox::Sandbox,
    session,
};

/// Output that waits to be read; beyond, the process waits.
const KEPT: usize = 4 * 1024 * 1024;
/// Of standard error, its end.
const SAID: usize = 16 * 1024;
/// Output in one answer.
const PIECE: usize = 512 * 1024;
/// Tasks at a time, ended ones that nobody has forgotten among them.
const MOST: usize = 8;
const LONGEST: u32 = 86_400;
/// How long a reader may wait for more.
const LONGEST_WAIT: u64 = 30;
/// Between the request to end and the end by force: an agent saves its conversation.
const GRACE: Duration = Duration::from_secs(10);

/// The tasks of this sandbox, by their ids.
#[derive(Debug, Default)]
pub struct Tasks(Mutex<BTreeMap<String, Arc<Task>>>);

#[derive(Debug)]
struct Task {
    log: Mutex<Log>,
    /// Grows whenever the log changes, in either direction.
    changes: watch::Sender<u64>,
    cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct Log {
    /// How many bytes were let go.
    before: u64,
    kept: VecDeque<u8>,
    said: VecDeque<u8>,
    end: Option<(i32, bool)>,
}

/// Answers a request about a task.
///
/// # Errors
/// There is no such task, or the request is wrong.
pub async fn route(sandbox: &Arc<Sandbox>, id: &str, request: Request<Incoming>) -> Answer {
    let named = (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !named {
        return Err(Refusal::bad(
            "a task's id has up to 64 letters, digits and dashes",
        ));
    }
    match *request.method() {
        Method::PUT => {
            let wish = read_json(request.into_body()).await?;
            begin(sandbox, id, wish)
        }
        Method::GET => {
            let query = Query::of(request.uri());
            let number = |name: &str| {
                let text = query.get(name).unwrap_or("0");
                text.parse::<u64>()
                    .map_err(|_| Refusal::field(name, "it is a number"))
            };
            let (after, wait) = (number("after")?, number("wait")?.min(LONGEST_WAIT));
            let task = find(sandbox, id)?;
            Ok(json(&read(&task, after, Duration::from_secs(wait)).await))
        }
        Method::DELETE => {
            let task = find(sandbox, id)?;
            if task.log.lock().end.is_some() {
                sandbox.tasks.0.lock().remove(id);
                return Ok(status(StatusCode::NO_CONTENT));
            }
            task.cancel.cancel();
            Ok(status(StatusCode::ACCEPTED))
        }
        _ => Err(Refusal::not_found("a task is put, read and deleted")),
    }
}

fn find(sandbox: &Sandbox, id: &str) -> Result<Arc<Task>, Refusal> {
    let found = sandbox.tasks.0.lock().get(id).cloned();
    found.ok_or_else(|| Refusal::not_found(format!("there is no task `{id}`")))
}

/// Starts it, unless it was started before: whoever asks may not know whether they did already.
fn begin(sandbox: &Arc<Sandbox>, id: &str, mut wish: ExecRequest) -> Answer {
    let mut tasks = sandbox.tasks.0.lock();
    if tasks.contains_key(id) {
        return Ok(status(StatusCode::OK));
    }
    if tasks.len() >= MOST {
        // Whoever was to forget them has not come to it.
        tasks.retain(|_, task| task.log.lock().end.is_none());
    }
    if tasks.len() >= MOST {
        return Err(Refusal::conflict(format!(
            "there are {MOST} tasks already; wait until one has ended"
        )));
    }
    let limit = match wish.timeout_seconds.take() {
        Some(seconds @ 1..=LONGEST) => Some(Duration::from_secs(seconds.into())),
        None => None,
        Some(_) => {
            return Err(Refusal::field(
                "timeoutSeconds",
                format!("it is from 1 to {LONGEST}"),
            ));
        }
    };
    let token = sandbox.asks_token.expose();
    for (name, value) in &sandbox.environment {
        // So that what its models cost is put down to the task.
        if secrecy::ExposeSecret::expose_secret(value) == token {
            wish.env
                .entry(name.clone())
                .or_insert_with(|| format!("{token}.{id}"));
        }
    }
    let input = wish.stdin.take().unwrap_or_default();
    let running = start(sandbox, &wish)?;
    let task = Arc::new(Task {
        log: Mutex::default(),
        changes: watch::Sender::new(0),
        cancel: CancellationToken::new(),
    });
    tasks.insert(id.to_owned(), Arc::clone(&task));
    drop(tasks);
    tokio::spawn(own(Arc::clone(sandbox), task, running, input, limit));
    Ok(status(StatusCode::CREATED))
}

/// Keeps the process and what it writes until it has ended.
async fn own(
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
        let room = task.log.lock().kept.len() < KEPT;
        tokio::select! {
            ended = &mut end => break ended,
            () = task.cancel.cancelled(), if !cancelled => {
                cancelled = true;
                let sandbox = Arc::clone(&sandbox);
                tokio::spawn(async move {
                    session::end(&sandbox.reaper, pid, libc::SIGTERM, GRACE).await;
                });
            }
            length = running.stdout.read(&mut out), if room => task.wrote(&out[..length]),
            length = running.stderr.read(&mut err) => task.said(&err[..length]),
            _ = changes.changed(), if !room => {}
        }
        // A process that never stops writing must not keep the others from their turn.
        tokio::task::yield_now().await;
    };
    drop(end);
    // A pipe holds 64 KiB; the bound is for one that is being filled while it is emptied.
    for _ in 0..16 {
        let Some(length) = running.stdout.read_now(&mut out) else {
            break;
        };
        task.wrote(&out[..length]);
    }
    for _ in 0..16 {
        let Some(length) = running.stderr.read_now(&mut err) else {
            break;
        };
        task.said(&err[..length]);
    }
    running.finish();
    task.log.lock().end = Some(ended);
    task.changed();
}

async fn feed(stdin: pipe::Sender, input: String) {
    // That it does not read its input is its own affair.
    let _ = write_all(&stdin, input.as_bytes()).await;
}

impl Task {
    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn wrote(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.log.lock().kept.extend(bytes);
            self.changed();
        }
    }

    fn said(&self, bytes: &[u8]) {
        let mut log = self.log.lock();
        log.said.extend(bytes);
        let over = log.said.len().saturating_sub(SAID);
        log.said.drain(..over);
    }
}

/// What comes after a position, as soon as there is some.
async fn read(task: &Task, after: u64, wait: Duration) -> TaskOutput {
    let mut changes = task.changes.subscribe();
    let found = async {
        loop {
            changes.mark_unchanged();
            let (output, freed) = {
                let mut log = task.log.lock();
                let freed = log.let_go(after);
                (log.next(), freed)
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
    match timeout(wait, found).await {
        Ok(output) => output,
        Err(_) => task.log.lock().next(),
    }
}

impl Log {
    /// Lets go of what is before a position; whether there was anything.
    fn let_go(&mut self, position: u64) -> bool {
        let count = usize::try_from(position.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let count = count.min(self.kept.len());
        self.kept.drain(..count);
        self.before += count as u64;
        if self.kept.is_empty() {
            self.kept.shrink_to(CHUNK);
        }
        count > 0
    }

    /// The whole lines that come next, and the end where nothing is left before it.
    fn next(&mut self) -> TaskOutput {
        let bytes = self.kept.make_contiguous();
        let piece = &bytes[..bytes.len().min(PIECE)];
        let whole = match memchr::memrchr(b'\n', piece) {
            Some(end) => end + 1,
            // A line that is longer than an answer comes in pieces; the last has no end.
            None if piece.len() == PIECE || self.end.is_some() => piece.len(),
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
                stderr: String::from_utf8_lossy(self.said.make_contiguous()).into_owned(),
            });
        TaskOutput {
            next: self.before + whole as u64,
            lines,
            end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        Log {
            kept: text.bytes().collect(),
            ..Log::default()
        }
    }

    #[test]
    fn whole_lines_are_given_and_kept_until_they_were_read() {
        let mut log = log("one\ntwo\nthr");
        let first = log.next();
        assert_eq!((first.lines, first.next), (vec!["one".into(), "two".into()], 8));
        assert_eq!(log.next().next, 8, "it was not said that they were read");
        assert!(log.let_go(8));
        assert!(log.next().lines.is_empty());
        log.kept.extend(b"ee\n");
        let second = log.next();
        assert_eq!((second.lines, second.next), (vec!["three".to_owned()], 14));
        assert!(!log.let_go(8));
    }

    #[test]
    fn the_end_comes_with_the_last_line_even_where_that_has_none() {
        let mut log = log("one\ntwo");
        log.end = Some((3, false));
        let first = log.next();
        assert_eq!((first.lines.len(), first.end), (1, None));
        log.let_go(first.next);
        let last = log.next();
        assert_eq!(last.lines, ["two"]);
        assert_eq!(last.end.map(|end| end.exit_code), Some(3));
    }
}
