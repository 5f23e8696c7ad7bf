//! Report: figures, their targets, and the table.

use std::{fmt::Write as _, time::Duration};

/// Target of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// No target: a floor, or an additional figure.
    None,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub ours: f64,
    pub floor: Option<f64>,
    pub unit: &'static str,
    pub target: Target,
}

impl Row {
    #[must_use]
    pub fn new(what: impl Into<String>, ours: f64, unit: &'static str, target: Target) -> Self {
        Self {
            what: what.into(),
            ours,
            floor: None,
            unit,
            target,
        }
    }

    #[must_use]
    pub fn with_floor(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }

    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        match self.target {
            Target::AtMost(most) => Some(self.ours <= most),
            Target::AtLeast(least) => Some(self.ours >= least),
            Target::None => None,
        }
    }
}

/// The rows as a Markdown table.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("| what | ours | floor | ours / floor | target | |\n|---|---:|---:|---:|---:|---|\n");
    for row in rows {
        let floor = row
            .floor
            .map_or(String::new(), |floor| format!("{} {}", number(floor), row.unit));
        let ratio = row
            .floor
            .map_or(String::new(), |floor| format!("{:.2}", row.ours / floor));
        let target = match row.target {
            Target::AtMost(most) => format!("≤ {} {}", number(most), row.unit),
            Target::AtLeast(least) => format!("≥ {} {}", number(least), row.unit),
            Target::None => String::new(),
        };
        let result = match row.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let _ = writeln!(
            text,
            "| {} | {} {} | {floor} | {ratio} | {target} | {result} |",
            row.what,
            number(row.ours),
            row.unit
        );
    }
    text
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Durations in order, for their percentiles.
#[derive(Clone, Debug, Default)]
pub struct Sample(Vec<Duration>);

impl Sample {
    pub fn add(&mut self, duration: Duration) {
        let at = self.0.partition_point(|&other| other <= duration);
        self.0.insert(at, duration);
    }

    /// In milliseconds; the nearest-rank percentile.
    ///
    /// # Panics
    /// There is no measurement.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub fn percentile(&self, percent: f64) -> f64 {
        assert!(!self.0.is_empty(), "a percentile of nothing");
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1].as_secs_f64() * 1000.0
    }
}

/// The median of the measurements, of which there is at least one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
