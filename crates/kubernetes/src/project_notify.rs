//! Who waits for a change in the cluster: by project, since with a thousand sandboxes on their way each change would
//! otherwise wake every one of them, to look and to find that it was another's.

use fsa_model::ProjectId;
use tokio::sync::{Notify, watch};

/// Projects share places, so that nobody has to keep account of who waits. More than are worked on at a time.
const PLACES: usize = 1024;

/// Wakes whoever waits.
#[derive(Debug)]
pub struct Changes {
    of_projects: Box<[Notify]>,
    any: watch::Sender<()>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            of_projects: (0..PLACES).map(|_| Notify::new()).collect(),
            any: watch::Sender::new(()),
        }
    }
}

impl Changes {
    /// Something of a project has changed; without one, it may be anybody's.
    pub fn tell(&self, project: Option<ProjectId>) {
        match project {
            Some(project) => self.of(project).notify_waiters(),
            None => self.of_projects.iter().for_each(Notify::notify_waiters),
        }
        self.any.send_replace(());
    }

    /// Waits until `look` finds something, looking again after each change of the project. Bound it with a timeout.
    pub async fn until<T>(&self, project: ProjectId, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            // It hears of what comes after it was made, so that nothing is missed between look and wait.
            let changed = self.of(project).notified();
            if let Some(found) = look() {
                return found;
            }
            changed.await;
        }
    }

    /// Every change from now on.
    #[must_use]
    pub fn any(&self) -> watch::Receiver<()> {
        self.any.subscribe()
    }

    fn of(&self, project: ProjectId) -> &Notify {
        // The last bytes of ours are random: they are UUIDs of version 7 (RFC 9562, section 5.7).
        let [.., high, low] = *project.0.as_bytes();
        &self.of_projects[usize::from(u16::from_be_bytes([high, low])) % PLACES]
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
    fn whoever_waits_looks_after_a_change_of_his_own_and_of_nobody_elses() {
        let changes = Changes::default();
        let looks = Cell::new(0);
        let mut waiting = Box::pin(changes.until(project(1), || {
            looks.set(looks.get() + 1);
            (looks.get() == 3).then_some("found")
        }));
        assert_eq!(waiting.as_mut().now_or_never(), None);

        changes.tell(Some(project(2)));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        assert_eq!(looks.get(), 1);
        changes.tell(Some(project(1)));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        assert_eq!(looks.get(), 2);
        changes.tell(None);
        assert_eq!(waiting.now_or_never(), Some("found"));
    }

    #[test]
    fn whoever_listens_to_everything_hears_each() {
        let changes = Changes::default();
        let mut any = changes.any();
        for about in [Some(project(1)), None] {
            changes.tell(about);
            assert!(any.has_changed().unwrap());
            any.mark_unchanged();
        }
    }
}
