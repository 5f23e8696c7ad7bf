//! Budget of port events: a program that opens and closes ports all day must not fill the event log.

use std::time::Duration;

use fsa_model::event::EventKind;
use tokio::time::Instant;

use crate::store::events::PendingEvent;

/// Events of opened and closed ports in one [`WINDOW`]. Statuses, and so the list of ports, are not affected.
const MAX_EVENTS: usize = 500;
const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// The port events of one sandbox in the current window.
#[derive(Debug, Default)]
pub struct PortEventBudget {
    window_start: Option<Instant>,
    used: usize,
}

impl PortEventBudget {
    /// Removes the port events that exceed the budget, and returns how many.
    pub fn limit(&mut self, events: &mut Vec<PendingEvent>, now: Instant) -> usize {
        if self
            .window_start
            .is_none_or(|start| now.duration_since(start) >= WINDOW)
        {
            self.window_start = Some(now);
            self.used = 0;
        }
        let before = events.len();
        events.retain(|event| {
            if !matches!(event.kind, EventKind::PortOpened | EventKind::PortClosed) {
                return true;
            }
            self.used += 1;
            self.used <= MAX_EVENTS
        });
        before - events.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn events(kind: EventKind, count: usize) -> Vec<PendingEvent> {
        (0..count)
            .map(|_| PendingEvent::new(kind, "x", json!({})))
            .collect()
    }

    #[test]
    fn port_events_beyond_the_budget_are_dropped_until_the_next_day() {
        let (mut budget, morning) = (PortEventBudget::default(), Instant::now());
        let mut many = events(EventKind::PortOpened, MAX_EVENTS + 3);
        many.extend(events(EventKind::StartCommandExited, 2));

        assert_eq!(budget.limit(&mut many, morning), 3);
        assert_eq!(many.len(), MAX_EVENTS + 2, "other events are kept");
        let mut one = events(EventKind::PortClosed, 1);
        assert_eq!(budget.limit(&mut one, morning + WINDOW / 2), 1);
        let mut one = events(EventKind::PortClosed, 1);
        assert_eq!(budget.limit(&mut one, morning + WINDOW), 0);
    }
}
