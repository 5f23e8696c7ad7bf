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

/// Exit code of a command whose output nobody reads any more: 128 and SIGPIPE, as a shell shows it.
const CLOSED_PIPE: u8 = 128 + 13;

/// Prints `value` as JSON where `json`, otherwise as `people` does.
pub fn print<T: Serialize>(json: bool, value: &T, people: impl FnOnce(&T)) {
    if json {
        line(&serde_json::to_string_pretty(value).unwrap_or_default());
    } else {
        people(value);
    }
}

/// Prints a list as `print` does; as JSON it has the shape of the API's lists.
pub fn print_list<T: Serialize>(json: bool, items: Vec<T>, people: impl FnOnce(&[T])) {
    let page = Page {
        items,
        next_cursor: None,
    };
    print(json, &page, |page| people(&page.items));
}

/// One line on standard output. When nobody reads it any more (`| head`), the command ends here.
pub fn line(text: &str) {
    let mut stdout = std::io::stdout();
    if let Err(error) = writeln!(stdout, "{}", printable(text, stdout.is_terminal()))
        && error.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(CLOSED_PIPE.into());
    }
}

/// The end of a command whose output cannot be written: silent where the reader has closed the pipe.
pub fn unwritten(error: std::io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(CLOSED_PIPE),
        _ => Err(Failure::failed(format!("the output cannot be written: {error}"))),
    }
}

/// One line on standard error.
pub fn note(text: &str) {
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "{}", printable(text, stderr.is_terminal()));
}

/// One line of ours on a terminal in raw mode, where a new line needs a carriage return on both sides.
pub fn raw_note(text: &str) {
    let _ = write!(std::io::stderr(), "\r\n{}\r\n", printable(text, true));
}

/// Pure: `text` for a terminal without what would control it: colors and cursor movements (ECMA-48 control sequences)
/// are removed, other control characters made visible. In a pipe it is as it is.
fn printable(text: &str, terminal: bool) -> Cow<'_, str> {
    if !terminal || !text.contains(|c: char| c.is_control() && !"\n\t".contains(c)) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.next_if_eq(&'[').is_some() => {
                while rest.next_if(|c| (' '..='?').contains(c)).is_some() {}
                rest.next_if(|c| ('@'..='~').contains(c));
            }
            '\n' | '\t' => shown.push(c),
            '\r' if rest.peek().is_none_or(|c| *c == '\n') => {}
            '\0'..='\x1f' => shown.extend(char::from_u32(0x2400 + u32::from(c))),
            '\x7f' => shown.push('␡'),
            c if c.is_control() => shown.push(char::REPLACEMENT_CHARACTER),
            c => shown.push(c),
        }
    }
    shown.into()
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

/// `3 min` and the like.
pub fn ago(at: DateTime<Utc>) -> String {
    let seconds = (Utc::now() - at).num_seconds().max(0);
    match seconds {
        0..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min", seconds / 60),
        3600..=86_399 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Shows the progress of a sandbox's stages: bars on a terminal, a line per change in a pipe, nothing with --json.
pub enum Stages {
    Bars {
        bars: Vec<ProgressBar>,
        _all: MultiProgress,
    },
    Lines {
        /// The state of each stage, and since when: a restart repeats states.
        last: Vec<(StageState, DateTime<Utc>)>,
    },
    Silent,
}

impl Stages {
    /// `before`: stages that are no news.
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
        let begun = sandbox.stages.iter().map(|stage| stage.since).min();
        match self {
            Self::Silent => {}
            Self::Lines { last } => {
                last.resize(sandbox.stages.len(), (StageState::Pending, DateTime::UNIX_EPOCH));
                for (was, stage) in last.iter_mut().zip(&sandbox.stages) {
                    let now = (stage.state, stage.since);
                    if std::mem::replace(was, now) != now && stage.state != StageState::Pending {
                        let message = stage
                            .message
                            .as_deref()
                            .map(|m| format!(": {m}"))
                            .unwrap_or_default();
                        note(&format!("{} {}{message}", word(stage.state), stage.title));
                    }
                }
            }
            Self::Bars { bars, _all: all } => {
                while bars.len() < sandbox.stages.len() {
                    let bar = all.add(ProgressBar::new_spinner());
                    bar.set_style(style("{prefix} {msg}"));
                    bars.push(bar);
                }
                for (bar, stage) in bars.iter().zip(&sandbox.stages) {
                    let message = stage
                        .message
                        .as_deref()
                        .map(|m| format!(": {m}"))
                        .unwrap_or_default();
                    bar.set_message(match (stage.state, begun) {
                        (StageState::Done, Some(begun)) => {
                            format!(
                                "{} ({} ms)",
                                stage.title,
                                (stage.since - begun).num_milliseconds().max(0)
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
                            bar.set_prefix(word(state));
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

const fn word(state: StageState) -> &'static str {
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
        for (text, shown) in [
            ("plain\tü\n", "plain\tü\n"),
            ("\x1b[1;31mred\x1b[0m \x1b[2J", "red "),
            ("a\r\nb\r", "a\nb"),
            ("true\rfake", "true␍fake"),
            ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
            ("\x1b[31\nb\x1b", "\nb␛"),
            ("\u{9b}31m\x7f", "\u{fffd}31m␡"),
        ] {
            assert_eq!(printable(text, true), shown);
            assert_eq!(printable(text, false), text);
        }
    }
}
