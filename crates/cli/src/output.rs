//! Output: tables, JSON, and the progress of the five stages.

use std::{
    io::{ErrorKind, IsTerminal as _, Write as _},
    time::Duration,
};

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use fsa_model::{Phase, StageState, api::Sandbox};
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

/// One line on standard output. When nobody reads it any more (`| head`), the command ends here.
pub fn line(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
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
    let _ = writeln!(std::io::stderr(), "{text}");
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
        last: Vec<StageState>,
    },
    Silent,
}

impl Stages {
    pub fn new(json: bool) -> Self {
        if json {
            Self::Silent
        } else if std::io::stderr().is_terminal() {
            Self::Bars {
                bars: Vec::new(),
                _all: MultiProgress::new(),
            }
        } else {
            Self::Lines { last: Vec::new() }
        }
    }

    pub fn show(&mut self, sandbox: &Sandbox) {
        let begun = sandbox.stages.iter().map(|stage| stage.since).min();
        match self {
            Self::Silent => {}
            Self::Lines { last } => {
                last.resize(sandbox.stages.len(), StageState::Pending);
                for (was, stage) in last.iter_mut().zip(&sandbox.stages) {
                    if *was != stage.state {
                        *was = stage.state;
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
