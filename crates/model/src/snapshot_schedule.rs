//! Schedule of a project's snapshots: how many are kept, when one is due, and which expire. Pure functions of times.
//!
//! Hours and days are those of UTC, which have no daylight saving. What is kept is counted in hours and days that have a
//! snapshot, not in time that has passed: after a week without a server, or of a clock that was set back, the same ones
//! are still there.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most hours with a snapshot that are kept.
pub const MAX_HOURLY: u16 = 48;
/// Most days with a snapshot that are kept.
pub const MAX_DAILY: u16 = 60;
/// Most scheduled snapshots of one project, in all branches: half of what a project may have.
pub const MAX_SCHEDULED: usize = 100;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// `PUT /api/projects/{project}/snapshot-schedule`. Both 0: no snapshots are taken, and those that exist stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotSchedule {
    /// The last hours that had a change, of which the newest snapshot each is kept: 0 to 48.
    #[schema(maximum = 48)]
    pub hourly: u16,
    /// The last days that had a change, of which the newest snapshot each is kept: 0 to 60.
    #[schema(maximum = 60)]
    pub daily: u16,
}

/// `GET /api/projects/{project}/snapshot-schedule`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotScheduleView {
    pub hourly: u16,
    pub daily: u16,
    /// The project has no schedule of its own: this is the region's.
    pub is_default: bool,
    /// Why the last scheduled snapshot of a branch was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl SnapshotSchedule {
    /// Hourly for a day, daily for a week.
    pub const STANDARD: Self = Self { hourly: 24, daily: 7 };
    pub const OFF: Self = Self { hourly: 0, daily: 0 };

    /// The default of a region. Where a snapshot is a copy, which takes time and space, there is none.
    #[must_use]
    pub const fn default_of(shares_snapshots: bool) -> Self {
        if shares_snapshots {
            Self::STANDARD
        } else {
            Self::OFF
        }
    }

    #[must_use]
    pub fn is_off(self) -> bool {
        self == Self::OFF
    }

    /// Whether a snapshot is due, where the schedule was last followed at `last`. However long ago that is, one is.
    #[must_use]
    pub fn is_due(self, last: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        if self.is_off() {
            return false;
        }
        let interval = Duration::seconds(if self.hourly > 0 { HOUR } else { DAY });
        // A time that is too far in the future is of a clock that was set back since.
        now >= last + interval || last > now + interval
    }

    /// The snapshots of one branch that expire: all but the newest of each of the last hours and days that have one.
    #[must_use]
    pub fn expired<T: Copy>(self, taken: &[(T, DateTime<Utc>)]) -> Vec<T> {
        if self.is_off() {
            return Vec::new();
        }
        let mut newest_first = taken.to_vec();
        newest_first.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        let mut hours = Kept::new(HOUR, self.hourly);
        let mut days = Kept::new(DAY, self.daily);
        let is_kept = |at: DateTime<Utc>, hours: &mut Kept, days: &mut Kept| {
            let (hourly, daily) = (hours.keeps(at), days.keeps(at));
            hourly || daily
        };
        newest_first
            .into_iter()
            .filter(|(_, at)| !is_kept(*at, &mut hours, &mut days))
            .map(|(snapshot, _)| snapshot)
            .collect()
    }
}

/// The oldest of a project's scheduled snapshots that are more than it may have.
#[must_use]
pub fn excess<T: Copy>(taken: &[(T, DateTime<Utc>)]) -> Vec<T> {
    let mut newest_first = taken.to_vec();
    newest_first.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
    newest_first
        .into_iter()
        .skip(MAX_SCHEDULED)
        .map(|(snapshot, _)| snapshot)
        .collect()
}

/// The periods of one length of which the newest snapshot is kept.
struct Kept {
    seconds: i64,
    most: usize,
    periods: BTreeSet<i64>,
}

impl Kept {
    fn new(seconds: i64, most: u16) -> Self {
        Self {
            seconds,
            most: most.into(),
            periods: BTreeSet::new(),
        }
    }

    /// Whether this snapshot is the first of its period, and the period among the last ones.
    fn keeps(&mut self, at: DateTime<Utc>) -> bool {
        self.periods.len() < self.most && self.periods.insert(at.timestamp().div_euclid(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("{text}:00Z").parse().unwrap()
    }

    /// Hours before a moment, as snapshots whose ids are these hours.
    fn hourly(until: &str, hours: std::ops::Range<i64>) -> Vec<(i64, DateTime<Utc>)> {
        hours
            .map(|hour| (hour, at(until) - Duration::hours(hour)))
            .collect()
    }

    #[test]
    fn one_is_due_each_hour_and_one_only_after_a_week_away() {
        let schedule = SnapshotSchedule::STANDARD;
        let last = at("2026-03-29T00:30");
        for (now, due) in [
            ("2026-03-29T00:30", false),
            ("2026-03-29T01:29", false),
            ("2026-03-29T01:30", true),
            ("2026-04-05T12:00", true),
        ] {
            assert_eq!(schedule.is_due(last, at(now)), due, "{now}");
        }
        assert!(!schedule.is_due(at("2026-04-05T12:00"), at("2026-04-05T12:01")));
    }

    #[test]
    fn a_clock_that_goes_back_neither_repeats_nor_stops_the_schedule() {
        let schedule = SnapshotSchedule::STANDARD;
        let last = at("2026-03-29T12:00");
        assert!(!schedule.is_due(last, at("2026-03-29T11:10")));
        assert!(schedule.is_due(last, at("2025-01-01T00:00")));
    }

    #[test]
    fn a_daily_schedule_is_due_once_a_day_and_none_never() {
        let daily = SnapshotSchedule { hourly: 0, daily: 3 };
        let last = at("2026-03-29T12:00");
        assert!(!daily.is_due(last, at("2026-03-30T11:59")));
        assert!(daily.is_due(last, at("2026-03-30T12:00")));
        assert!(!SnapshotSchedule::OFF.is_due(last, at("2030-01-01T00:00")));
    }

    #[test]
    fn a_day_of_hours_and_a_week_of_days_are_kept() {
        let schedule = SnapshotSchedule::STANDARD;
        // Ten days without a pause, up to 20:00.
        let taken = hourly("2026-03-29T20:00", 0..240);

        let expired: BTreeSet<i64> = schedule.expired(&taken).into_iter().collect();

        let kept: Vec<i64> = (0..240).filter(|hour| !expired.contains(hour)).collect();
        let mut expected: Vec<i64> = (0..24).collect();
        // The last of each day, at 23:00, of the five days before those; the first two are among the hours.
        expected.extend([45, 69, 93, 117, 141]);
        assert_eq!(kept, expected);
        assert_eq!(
            schedule.expired(&taken),
            schedule.expired(&taken.iter().rev().copied().collect::<Vec<_>>())
        );
    }

    #[test]
    fn nothing_expires_because_time_passed_or_the_clock_went_back() {
        let schedule = SnapshotSchedule::STANDARD;
        let mut taken = hourly("2026-03-01T20:00", 0..24);
        assert_eq!(schedule.expired(&taken), Vec::<i64>::new());
        // A week later there is one more, and the oldest hour goes.
        taken.push((-1, at("2026-03-08T20:00")));
        assert_eq!(schedule.expired(&taken), [23]);
        // The same where the clock was a month behind.
        taken.push((-2, at("2026-02-08T20:00")));
        assert_eq!(schedule.expired(&taken), [23]);
    }

    #[test]
    fn two_of_one_hour_are_one_and_a_smaller_schedule_keeps_the_newest() {
        let taken = [(1, at("2026-03-01T20:01")), (2, at("2026-03-01T20:59"))];
        assert_eq!(SnapshotSchedule::STANDARD.expired(&taken), [1]);
        let one = SnapshotSchedule { hourly: 1, daily: 0 };
        assert_eq!(one.expired(&hourly("2026-03-29T20:00", 0..3)), [1, 2]);
        assert_eq!(SnapshotSchedule::OFF.expired(&taken), Vec::<i32>::new());
    }

    #[test]
    fn a_project_has_a_limit_whatever_its_branches() {
        let taken = hourly("2026-03-29T20:00", 0..103);
        assert_eq!(excess(&taken), [100, 101, 102]);
    }
}
