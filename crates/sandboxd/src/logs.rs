//! Log buffer: the last lines of the start command and of the clone, and sandboxd's notices about them.
//!
//! A ring in memory with three bounds (lines, bytes, length of a line). Followers keep a sequence
//! number and no queue, so a slow one costs nothing: it continues at the oldest line in the ring.

use std::{collections::VecDeque, sync::Arc};

use chrono::Utc;
use fsa_model::sandboxd::{LogLine, LogSource};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Maximum lines.
pub const MAX_LINES: usize = 2_000;
/// Maximum bytes of text.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Maximum bytes of one line; a longer line is cut.
pub const MAX_LINE_BYTES: usize = 8 * 1024;
/// Suffix of a cut line.
pub const CUT_MARKER: &str = " … [cut]";

/// The ring.
#[derive(Debug)]
pub struct Logs {
    ring: Mutex<Ring>,
    /// The sequence of the newest line.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Arc<LogLine>>,
    bytes: usize,
    sequence: u64,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl Logs {
    /// Adds one line (without its end).
    pub fn add(&self, source: LogSource, text: impl Into<String>) {
        let mut text = text.into();
        if text.len() > MAX_LINE_BYTES {
            text.truncate(shortened(&text, MAX_LINE_BYTES).len());
            text.push_str(CUT_MARKER);
        }
        let mut ring = self.ring.lock();
        ring.sequence += 1;
        ring.bytes += text.len();
        let line = Arc::new(LogLine {
            sequence: ring.sequence,
            at: Utc::now(),
            source,
            text,
        });
        ring.lines.push_back(line);
        while ring.lines.len() > MAX_LINES || ring.bytes > MAX_BYTES {
            let Some(oldest) = ring.lines.pop_front() else {
                break;
            };
            ring.bytes -= oldest.text.len();
        }
        self.newest.send_replace(ring.sequence);
    }

    /// Adds a message of sandboxd itself.
    pub fn add_notice(&self, text: impl Into<String>) {
        self.add(LogSource::Sandbox, text);
    }

    /// The lines after `sequence` that are still in the ring, at most `limit`.
    #[must_use]
    pub fn after(&self, sequence: u64, limit: usize) -> Vec<Arc<LogLine>> {
        let ring = self.ring.lock();
        let first = ring.lines.partition_point(|line| line.sequence <= sequence);
        ring.lines.iter().skip(first).take(limit).cloned().collect()
    }

    /// Changes with each new line.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// The longest prefix of whole characters that fits into `bytes`.
#[must_use]
pub fn shortened(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Splits a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// Beginning of an incomplete line, at most [`MAX_LINE_BYTES`].
    buffer: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Adds a piece, and calls `line` for each line that it completes.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.buffer(&bytes[..end]);
            line(self.take());
            bytes = &bytes[end + 1..];
        }
        self.buffer(bytes);
    }

    /// The last line, if it has no line end.
    pub fn finish(&mut self) -> Option<String> {
        (!self.buffer.is_empty()).then(|| self.take())
    }

    fn buffer(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.buffer.len());
        self.cut |= bytes.len() > room;
        self.buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn take(&mut self) -> String {
        let mut text = String::from_utf8_lossy(&self.buffer).into_owned();
        if text.ends_with('\r') {
            text.pop();
        }
        // A progress bar overwrites its line; keep what it wrote last.
        if let Some(last) = text.rfind('\r') {
            text.drain(..=last);
        }
        if std::mem::take(&mut self.cut) {
            text.push_str(CUT_MARKER);
        }
        self.buffer.clear();
        self.buffer.shrink_to(512);
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(logs: &Logs, after: u64) -> Vec<String> {
        logs.after(after, usize::MAX)
            .iter()
            .map(|line| line.text.clone())
            .collect()
    }

    #[test]
    fn the_ring_keeps_the_newest_lines_and_their_sequence_numbers_continue() {
        let logs = Logs::default();
        for number in 0..MAX_LINES + 10 {
            logs.add_notice(number.to_string());
        }
        let kept = logs.after(0, usize::MAX);
        assert_eq!(kept.len(), MAX_LINES);
        assert_eq!((kept[0].sequence, kept[0].text.as_str()), (11, "10"));
        assert_eq!(
            texts(&logs, kept.last().unwrap().sequence - 1),
            [(MAX_LINES + 9).to_string()]
        );
    }

    #[test]
    fn many_long_lines_stay_within_the_byte_limit() {
        let logs = Logs::default();
        for _ in 0..500 {
            logs.add_notice("x".repeat(MAX_LINE_BYTES * 2));
        }
        let bytes: usize = logs.after(0, usize::MAX).iter().map(|line| line.text.len()).sum();
        assert!(bytes <= MAX_BYTES, "{bytes}");
        assert!(logs.after(0, 1)[0].text.ends_with(CUT_MARKER));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_are_split(text in "[a-zé\n]{0,80}", cuts in proptest::collection::vec(0usize..160, 0..5)) {
            let whole = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
            cuts.sort_unstable();
            let (mut lines, mut found, mut from) = (Lines::default(), Vec::new(), 0);
            for cut in cuts.into_iter().chain([whole.len()]) {
                lines.feed(&whole[from..cut], |line| found.push(line));
                from = cut;
            }
            found.extend(lines.finish());
            let expected: Vec<_> = text.lines().map(ToOwned::to_owned).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_progress_bar_leaves_its_last_state() {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        lines.feed(b"1%\r50%\r100%\r\nend", |line| found.push(line));
        assert_eq!(found, ["100%"]);
        assert_eq!(lines.finish().as_deref(), Some("end"));
    }
}
