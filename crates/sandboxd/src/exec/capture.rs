//! `POST /v1/exec`: runs one command and returns its captured output.

use std::{io, sync::Arc};

use fsa_model::sandboxd::{EXEC_OUTPUT_LIMIT, ExecRequest, ExecResult};

use super::{CHUNK, DEFAULT_TIMEOUT_SECONDS, Output, ended, refuse_terminal, start, time_limit};
use crate::{http::ApiError, sandbox::Sandbox};

/// Captured output, up to the limit.
#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Captured {
    fn add(&mut self, bytes: &[u8]) {
        let room = EXEC_OUTPUT_LIMIT - self.bytes.len();
        self.truncated |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn into_text(self) -> String {
        match String::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(error) => {
                let mut bytes = error.into_bytes();
                if self.truncated {
                    // The limit may have cut a character.
                    bytes.truncate(whole_characters(&bytes));
                }
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }
}

/// Length without an incomplete character at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(4);
    match std::str::from_utf8(&bytes[tail..]) {
        Err(error) if error.error_len().is_none() => tail + error.valid_up_to(),
        _ => bytes
            .iter()
            .rposition(|&byte| byte & 0xC0 != 0x80)
            .filter(|&at| std::str::from_utf8(&bytes[at..]).is_err_and(|error| error.error_len().is_none()))
            .unwrap_or(bytes.len()),
    }
}

/// Runs the command and returns when it has ended. Dropped before that (the client disconnected),
/// the command is killed.
///
/// # Errors
/// The request is wrong, or the command could not be started.
pub async fn run(sandbox: &Arc<Sandbox>, request: ExecRequest) -> Result<ExecResult, ApiError> {
    refuse_terminal(&request)?;
    let limit = time_limit(Some(request.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS)))?;
    let mut running = start(sandbox, &request)?;
    let mut input = request.stdin.unwrap_or_default().into_bytes();
    let mut written = 0;
    let (mut stdout, mut stderr) = (Captured::default(), Captured::default());
    let mut stdin = running.stdin.take();
    let (mut from_stdout, mut from_stderr) = (Vec::new(), Vec::new());
    let mut end = Box::pin(ended(&mut running.exit, sandbox, running.pid, limit));
    let (exit_code, timed_out) = loop {
        if written == input.len() {
            stdin = None;
            input = Vec::new();
            written = 0;
        }
        tokio::select! {
            end = &mut end => break end,
            length = read(&mut running.stdout, &mut from_stdout) => stdout.add(&from_stdout[..length]),
            length = read(&mut running.stderr, &mut from_stderr) => stderr.add(&from_stderr[..length]),
            writable = async { match &stdin {
                Some(pipe) => pipe.writable().await,
                None => std::future::pending().await,
            }} => match writable.and_then(|()| stdin.as_ref().map_or(Ok(0), |pipe| pipe.try_write(&input[written..]))) {
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The command closed its standard input, like `head`: drop the rest.
                Err(_) => written = input.len(),
            },
        }
        // A command that never stops writing must not starve other tasks.
        tokio::task::yield_now().await;
    };
    drop(end);
    // The command's last output is still in the pipes.
    for (output, captured) in [
        (&mut running.stdout, &mut stdout),
        (&mut running.stderr, &mut stderr),
    ] {
        from_stdout.resize(CHUNK, 0);
        // A pipe holds 64 KiB; the bound is for one that another process fills meanwhile.
        for _ in 0..16 {
            let Some(length) = output.read_now(&mut from_stdout) else {
                break;
            };
            captured.add(&from_stdout[..length]);
        }
    }
    running.finish();
    Ok(ExecResult {
        exit_code,
        truncated: stdout.truncated || stderr.truncated,
        stdout: stdout.into_text(),
        stderr: stderr.into_text(),
        timed_out,
    })
}

/// Reads into a buffer that is allocated with the first read.
async fn read(output: &mut Output, buffer: &mut Vec<u8>) -> usize {
    buffer.resize(CHUNK, 0);
    output.read(buffer).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_between_characters_and_marked_as_truncated() {
        let mut captured = Captured::default();
        captured.add(&vec![b'x'; EXEC_OUTPUT_LIMIT - 1]);
        captured.add("é".as_bytes());
        captured.add(b"more");
        assert!(captured.truncated);
        assert_eq!(captured.into_text(), "x".repeat(EXEC_OUTPUT_LIMIT - 1));
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        let mut captured = Captured::default();
        captured.add(b"a\xffb");
        assert_eq!(captured.into_text(), "a\u{fffd}b");
    }

    #[test]
    fn only_an_incomplete_character_is_removed() {
        assert_eq!(whole_characters("aé".as_bytes()), 3);
        assert_eq!(whole_characters(&"aé".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(b"a\xff"), 2);
        assert_eq!(whole_characters(b""), 0);
        assert_eq!(whole_characters(&"😀😀".as_bytes()[..7]), 4);
    }
}
