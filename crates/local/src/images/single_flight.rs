//! Single flight: concurrent callers of the same work, such as the pull of an image, share one run.
//!
//! The work continues when its callers are gone, so that the attempt after a timeout finds it
//! further on, or done. It is bounded by its own timeouts. (moka and async_singleflight report no
//! progress to callers.)

use std::{collections::HashMap, future::Future, sync::Arc};

use fsa_model::{Failure, FailureKind};
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Clone)]
enum State<T> {
    InProgress(String),
    Done(Result<T, Failure>),
}

/// Reports the progress of the work.
pub struct Progress<T>(watch::Sender<State<T>>);

impl<T> Progress<T> {
    pub fn report(&self, message: String) {
        self.0.send_replace(State::InProgress(message));
    }
}

/// Work in flight, by key.
pub struct SingleFlight<T>(Arc<Mutex<HashMap<String, watch::Receiver<State<T>>>>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Joins the work named `key`, or starts it with `work`, and waits for its end. `listen` is
    /// called with its progress.
    pub async fn join<F>(
        &self,
        key: &str,
        listen: &(dyn Fn(&str) + Send + Sync),
        work: impl FnOnce(Arc<Progress<T>>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let mut states = {
            let mut in_flight = self.0.lock();
            if let Some(states) = in_flight.get(key) {
                states.clone()
            } else {
                let (sender, states) = watch::channel(State::InProgress(String::new()));
                in_flight.insert(key.to_owned(), states.clone());
                let progress = Arc::new(Progress(sender));
                let remove_on_drop = RemoveOnDrop {
                    in_flight: Arc::clone(&self.0),
                    key: key.to_owned(),
                };
                let work = work(Arc::clone(&progress));
                tokio::spawn(async move {
                    let result = work.await;
                    // Later callers start a new run.
                    drop(remove_on_drop);
                    progress.0.send_replace(State::Done(result));
                });
                states
            }
        };
        loop {
            match states.borrow_and_update().clone() {
                State::Done(result) => return result,
                State::InProgress(message) if message.is_empty() => {}
                State::InProgress(message) => listen(&message),
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

/// Removes the work from the map, also when it panics.
struct RemoveOnDrop<T> {
    in_flight: Arc<Mutex<HashMap<String, watch::Receiver<State<T>>>>>,
    key: String,
}

impl<T> Drop for RemoveOnDrop<T> {
    fn drop(&mut self) {
        self.in_flight.lock().remove(&self.key);
    }
}
