//! Idle times of database servers: pure. The caller says what it observes, and when.

use std::{collections::HashMap, time::Duration};

use fsa_model::VolumeId;
use tokio::time::Instant;

use crate::protocol::ObservedServer;

/// Since when each running server has no connection, as far as it was observed.
#[derive(Debug, Default)]
pub struct IdleTimes(HashMap<VolumeId, Instant>);

impl IdleTimes {
    /// The servers that have had no connection for `after`.
    pub fn due(&mut self, servers: &[ObservedServer], now: Instant, after: Duration) -> Vec<VolumeId> {
        let idle: Vec<VolumeId> = servers
            .iter()
            .filter(|server| server.running && server.connections == 0)
            .map(|server| server.volume)
            .collect();
        self.0.retain(|volume, _| idle.contains(volume));
        let mut due = Vec::new();
        for volume in idle {
            let since = *self.0.entry(volume).or_insert(now);
            if now.saturating_duration_since(since) >= after {
                self.0.remove(&volume);
                due.push(volume);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use fsa_model::Size;

    use super::*;
    use crate::protocol::DatabaseSetup;

    fn server(volume: VolumeId, running: bool, connections: u32) -> ObservedServer {
        ObservedServer {
            volume,
            setup: DatabaseSetup {
                role: "r".into(),
                verifier: "v".into(),
                resources: Size::Micro.resources(),
            },
            major: Some(15),
            lost: false,
            running,
            open: running,
            connections,
        }
    }

    #[test]
    fn a_server_is_due_after_the_whole_time_without_a_connection() {
        let (volume, start) = (VolumeId::generate(), Instant::now());
        let after = Duration::from_secs(300);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut times = IdleTimes::default();
        assert!(times.due(&[server(volume, true, 0)], at(0), after).is_empty());
        assert!(times.due(&[server(volume, true, 0)], at(299), after).is_empty());
        // A connection starts the time again.
        assert!(times.due(&[server(volume, true, 1)], at(300), after).is_empty());
        assert!(times.due(&[server(volume, true, 0)], at(301), after).is_empty());
        assert!(times.due(&[server(volume, true, 0)], at(600), after).is_empty());
        assert_eq!(times.due(&[server(volume, true, 0)], at(601), after), [volume]);
    }

    #[test]
    fn a_server_that_was_stopped_and_started_again_is_not_due() {
        let (volume, start) = (VolumeId::generate(), Instant::now());
        let after = Duration::from_secs(10);
        let mut times = IdleTimes::default();
        times.due(&[server(volume, true, 0)], start, after);
        times.due(&[server(volume, false, 0)], start + after, after);
        assert!(
            times
                .due(&[server(volume, true, 0)], start + after * 2, after)
                .is_empty()
        );
    }
}
