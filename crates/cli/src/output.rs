//! Output: tables, JSON, and the progress of the five stages. Text from a sandbox cannot control the terminal.

use std::{
    borrow::Cow,
    io::{ErrorKind, IsTerminal as _, Write as _},
    time::Duration,
};

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use fsa_model::{
    Phase, StageState,
    api::{Page, Sandbox},
    condition::Condition,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// Exit code after a closed output pipe: 128 and SIGPIPE, as a shell shows it.
const CLOSED_PIPE: u8 = 128 + 13;

/// Prints `value` as JSON if `json`, else with `text`.
pub fn print<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T)) {
    if json {
        line(&serde_json::to_string_pretty(value).unwrap_or_default());
    } else {
        text(value);
    }
}

/// Prints a list; as JSON in the format of the API's lists.
pub fn print_list<T: Serialize>(json: bool, items: Vec<T>, text: impl FnOnce(&[T])) {
    let page = Page {
        items,
        next_cursor: None,
    };
    print(json, &page, |page| text(&page.items));
}

/// Prints a line on standard output. If the reader has closed the pipe (`| head`), the command exits.
pub fn line(text: &str) {
    let mut stdout = std::io::stdout();
    if let Err(error) = writeln!(stdout, "{}", printable(text, stdout.is_terminal()))
        && error.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(CLOSED_PIPE.into());
    }
}

/// The outcome of a command whose output cannot be written; without a message if the reader has closed the pipe.
pub fn write_failure(error: std::io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(CLOSED_PIPE),
        _ => Err(Failure::failed(format!("the output cannot be written: {error}"))),
    }
}

/// Prints a line on standard error.
pub fn notice(text: &str) {
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "{}", printable(text, stderr.is_terminal()));
}

/// Prints a line on a terminal in raw mode, in which a line feed needs a carriage return.
pub fn raw_notice(text: &str) {
    let _ = write!(std::io::stderr(), "\r\n{}\r\n", printable(text, true));
}

/// `text` without control sequences, if it is for a terminal: colors and cursor movements (ECMA-48) are removed, other
/// control characters replaced by visible ones.
fn printable(text: &str, terminal: bool) -> Cow<'_, str> {
    if !terminal || !text.contains(|c: char| c.is_control() && !"\n\t".contains(c)) {
        return text.into();
    }
    let mut visible = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.next_if_eq(&'[').is_some() => {
                while rest.next_if(|c| (' '..='?').contains(c)).is_some() {}
                rest.next_if(|c| ('@'..='~').contains(c));
            }
            '\n' | '\t' => visible.push(c),
            '\r' if rest.peek().is_none_or(|c| *c == '\n') => {}
            '\0'..='\x1f' => visible.extend(char::from_u32(0x2400 + u32::from(c))),
            '\x7f' => visible.push('␡'),
            c if c.is_control() => visible.push(char::REPLACEMENT_CHARACTER),
            c => visible.push(c),
        }
    }
    visible.into()
}

pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    for row in table.lines() {
        line(row.trim_end());
    }
}

/// The time since `at`, such as `3 min`.
pub fn age(at: DateTime<Utc>) -> String {
    let seconds = (Utc::now() - at).num_seconds().max(0);
    match seconds {
        0..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min", seconds / 60),
        3600..=86_399 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Progress of a sandbox's stages: bars on a terminal, a line per change in a pipe, nothing with --json.
pub enum StageProgress {
    Bars {
        bars: Vec<ProgressBar>,
        _all: MultiProgress,
    },
    Lines {
        /// The state of each stage and its start, because a restart repeats states.
        last: Vec<(StageState, DateTime<Utc>)>,
    },
    Silent,
}

impl StageProgress {
    /// `before`: the stages to omit until they change.
    pub fn new(json: bool, before: &[Condition]) -> Self {
        if json {
            Self::Silent
        } else if std::io::stderr().is_terminal() {
            Self::Bars {
                bars: Vec::new(),
                _all: MultiProgress::new(),
            }
        } else {
            Self::Lines {
                last: before.iter().map(|stage| (stage.state, stage.since)).collect(),
            }
        }
    }

    pub fn show(&mut self, sandbox: &Sandbox) {
        let started = sandbox.stages.iter().map(|stage| stage.since).min();
        match self {
            Self::Silent => {}
            Self::Lines { last } => {
                last.resize(sandbox.stages.len(), (StageState::Pending, DateTime::UNIX_EPOCH));
                for (last_state, stage) in last.iter_mut().zip(&sandbox.stages) {
                    let now = (stage.state, stage.since);
                    if std::mem::replace(last_state, now) != now && stage.state != StageState::Pending {
                        let message = stage
                            .message
                            .as_deref()
                            .map(|m| format!(": {m}"))
                            .unwrap_or_default();
                        notice(&format!("{} {}{message}", symbol(stage.state), stage.title));
                    }
                }
            }
            Self::Bars { bars, _all: multi } => {
                while bars.len() < sandbox.stages.len() {
                    let bar = multi.add(ProgressBar::new_spinner());
                    bar.set_style(style("{prefix} {msg}"));
                    bars.push(bar);
                }
                for (bar, stage) in bars.iter().zip(&sandbox.stages) {
                    let message = stage
                        .message
                        .as_deref()
                        .map(|m| format!(": {m}"))
                        .unwrap_or_default();
                    bar.set_message(match (stage.state, started) {
                        (StageState::Done, Some(started)) => {
                            format!(
                                "{} ({} ms)",
                                stage.title,
                                (stage.since - started).num_milliseconds().max(0)
                            )
                        }
                        _ => format!("{}{message}", stage.title),
                    });
                    match stage.state {
                        StageState::Active => {
                            bar.set_style(style("{spinner} {msg}"));
                            bar.enable_steady_tick(Duration::from_millis(100));
                        }
                        state => {
                            bar.set_prefix(symbol(state));
                            bar.set_style(style("{prefix} {msg}"));
                            bar.disable_steady_tick();
                            bar.tick();
                        }
                    }
                }
                if sandbox.status.is_stable() || sandbox.status == Phase::Error {
                    for bar in bars {
                        bar.abandon();
                    }
                }
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

const fn symbol(state: StageState) -> &'static str {
    match state {
        StageState::Pending => "·",
        StageState::Active => "…",
        StageState::Done => "✓",
        StageState::Failed => "✗",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_sandbox_does_not_control_a_terminal() {
        for (text, visible) in [
            ("plain\tü\n", "plain\tü\n"),
            ("\x1b[1;31mred\x1b[0m \x1b[2J", "red "),
            ("a\r\nb\r", "a\nb"),
            ("true\rfake", "true␍fake"),
            ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
            ("\x1b[31\nb\x1b", "\nb␛"),
            ("\u{9b}31m\x7f", "\u{fffd}31m␡"),
        ] {
            assert_eq!(printable(text, true), visible);
            assert_eq!(printable(text, false), text);
        }
    }
}
