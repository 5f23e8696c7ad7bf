//! Change notification by project. With a thousand sandboxes being started, one shared notification would wake every
//! waiter at each change, most of them for a change of another project.

use fsa_model::ProjectId;
use tokio::sync::{Notify, watch};

/// Number of slots. Projects hash to slots, so waiters need no registration. Larger than the number of projects that
/// change at a time.
const SLOTS: usize = 1024;

/// Wakes the waiters of a project.
#[derive(Debug)]
pub struct ProjectNotify {
    slots: Box<[Notify]>,
    any: watch::Sender<()>,
}

impl Default for ProjectNotify {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Notify::new()).collect(),
            any: watch::Sender::new(()),
        }
    }
}

impl ProjectNotify {
    /// An object of the project has changed; `None`: any project may be affected.
    pub fn notify(&self, project: Option<ProjectId>) {
        match project {
            Some(project) => self.slot(project).notify_waiters(),
            None => self.slots.iter().for_each(Notify::notify_waiters),
        }
        self.any.send_replace(());
    }

    /// Waits until `check` returns a value. Checks again after each change of the project. The caller sets a timeout.
    pub async fn until<T>(&self, project: ProjectId, mut check: impl FnMut() -> Option<T>) -> T {
        loop {
            // `notified` registers before the check, so no change between check and wait is missed.
            let changed = self.slot(project).notified();
            if let Some(value) = check() {
                return value;
            }
            changed.await;
        }
    }

    /// Subscribes to all later changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.any.subscribe()
    }

    fn slot(&self, project: ProjectId) -> &Notify {
        // The last bytes are random: project ids are UUIDs of version 7 (RFC 9562, section 5.7).
        let [.., high, low] = *project.0.as_bytes();
        &self.slots[usize::from(u16::from_be_bytes([high, low])) % SLOTS]
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt as _;
    use uuid::Uuid;

    use super::*;

    fn project(number: u128) -> ProjectId {
        ProjectId(Uuid::from_u128(number))
    }

    #[test]
    fn a_waiter_checks_after_a_change_of_its_own_project_only() {
        let notify = ProjectNotify::default();
        let checks = Cell::new(0);
        let mut waiting = Box::pin(notify.until(project(1), || {
            checks.set(checks.get() + 1);
            (checks.get() == 3).then_some("found")
        }));
        assert_eq!(waiting.as_mut().now_or_never(), None);

        notify.notify(Some(project(2)));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        assert_eq!(checks.get(), 1);
        notify.notify(Some(project(1)));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        assert_eq!(checks.get(), 2);
        notify.notify(None);
        assert_eq!(waiting.now_or_never(), Some("found"));
    }

    #[test]
    fn a_subscriber_is_notified_of_each_change() {
        let notify = ProjectNotify::default();
        let mut any = notify.subscribe();
        for about in [Some(project(1)), None] {
            notify.notify(about);
            assert!(any.has_changed().unwrap());
            any.mark_unchanged();
        }
    }
}
