//! Single flight: concurrent callers of the same work, such as the pull of an image, share one run.
//!
//! The work continues for a minute when its callers are gone, so that the attempt after a timeout
//! finds it further on, or done. Where no caller comes back, because the project was stopped or
//! deleted, it is dropped. (moka and async_singleflight report no progress to callers.)

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use fsa_model::{Failure, FailureKind, condition::ImageProgress};
use parking_lot::Mutex;
use tokio::sync::watch;

/// How long work continues without a caller.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone)]
enum State<T> {
    InProgress(ImageProgress),
    Done(Result<T, Failure>),
}

/// Reports the progress of the work.
pub struct Progress<T>(watch::Sender<State<T>>);

impl<T> Progress<T> {
    pub fn report(&self, progress: ImageProgress) {
        self.0.send_replace(State::InProgress(progress));
    }
}

type InFlight<T> = Arc<Mutex<HashMap<String, Arc<Progress<T>>>>>;

/// Work in flight, by key.
pub struct SingleFlight<T> {
    in_flight: InFlight<T>,
    grace: Duration,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self::with_grace(ABANDONED_AFTER)
    }
}

impl<T> SingleFlight<T> {
    fn with_grace(grace: Duration) -> Self {
        Self {
            in_flight: Arc::default(),
            grace,
        }
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// The progress of the work named `key`, if it is in flight.
    pub fn progress(&self, key: &str) -> Option<ImageProgress> {
        let in_flight = self.in_flight.lock();
        match *in_flight.get(key)?.0.borrow() {
            State::InProgress(progress) => Some(progress),
            State::Done(_) => None,
        }
    }

    /// Joins the work named `key`, or starts it with `work`, and waits for its end. `listen` is
    /// called with its progress.
    pub async fn join<F>(
        &self,
        key: &str,
        listen: &(dyn Fn(ImageProgress) + Send + Sync),
        work: impl FnOnce(Arc<Progress<T>>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let mut states = {
            let mut in_flight = self.in_flight.lock();
            if let Some(progress) = in_flight.get(key) {
                progress.0.subscribe()
            } else {
                let (sender, states) = watch::channel(State::InProgress(ImageProgress::default()));
                let progress = Arc::new(Progress(sender));
                in_flight.insert(key.to_owned(), Arc::clone(&progress));
                let entry = InFlightEntry {
                    in_flight: Arc::clone(&self.in_flight),
                    key: key.to_owned(),
                    progress: Arc::clone(&progress),
                };
                let (work, grace) = (work(Arc::clone(&progress)), self.grace);
                tokio::spawn(async move {
                    let result = tokio::select! {
                        result = work => result,
                        () = entry.abandoned(grace) => return,
                    };
                    // Later callers start a new run.
                    drop(entry);
                    progress.0.send_replace(State::Done(result));
                });
                states
            }
        };
        loop {
            match states.borrow_and_update().clone() {
                State::Done(result) => return result,
                State::InProgress(progress) => listen(progress),
            }
            if states.changed().await.is_err() {
                return Err(Failure::new(
                    FailureKind::Internal,
                    "the work on the image ended without a result; the log has more",
                ));
            }
        }
    }
}

/// The work's entry in the map. Dropped with the work, also when it panics.
struct InFlightEntry<T> {
    in_flight: InFlight<T>,
    key: String,
    progress: Arc<Progress<T>>,
}

impl<T> InFlightEntry<T> {
    /// Returns when no caller has come back within `grace`. No later caller joins the work.
    async fn abandoned(&self, grace: Duration) {
        loop {
            self.progress.0.closed().await;
            tokio::time::sleep(grace).await;
            let mut in_flight = self.in_flight.lock();
            if self.progress.0.receiver_count() == 0 {
                self.remove(&mut in_flight);
                return;
            }
        }
    }

    /// Leaves the entry of a later run with the same key.
    fn remove(&self, in_flight: &mut HashMap<String, Arc<Progress<T>>>) {
        if in_flight
            .get(&self.key)
            .is_some_and(|found| Arc::ptr_eq(found, &self.progress))
        {
            in_flight.remove(&self.key);
        }
    }
}

impl<T> Drop for InFlightEntry<T> {
    fn drop(&mut self) {
        self.remove(&mut self.in_flight.lock());
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// Work without an end. The receiver of `held` gets an error when it is dropped.
    async fn endless(held: oneshot::Sender<()>) -> Result<u32, Failure> {
        let _held = held;
        pending().await
    }

    #[tokio::test]
    async fn work_that_no_caller_waits_for_is_dropped_after_a_while() {
        let flight = SingleFlight::<u32>::with_grace(Duration::ZERO);
        let (held, dropped) = oneshot::channel();

        let left = flight.join("a", &|_| {}, |_| endless(held)).now_or_never();
        assert!(left.is_none());

        assert!(dropped.await.is_err());
        let again = flight.join("a", &|_| {}, async |_| Ok(7)).await;
        assert_eq!(again.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_caller_that_comes_back_in_time_finds_the_same_work() {
        let flight = SingleFlight::<u32>::with_grace(Duration::from_secs(3600));
        let (held, mut dropped) = oneshot::channel();
        let left = flight.join("a", &|_| {}, |_| endless(held)).now_or_never();
        assert!(left.is_none());
        tokio::task::yield_now().await;

        let again = flight.join("a", &|_| {}, async |_| Ok(7)).now_or_never();

        assert!(again.is_none());
        assert_eq!(dropped.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    }
}
