//! Work that several callers want at once and that is done once: the pull of an image.
//!
//! The work goes on when its callers are gone, so that an attempt which ran out of time finds it
//! further on, or done, at the next one. It is bounded by its own timeouts.

use std::{collections::HashMap, future::Future, sync::Arc};

use fsa_model::{Failure, FailureKind};
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Clone)]
enum State<T> {
    InProgress(String),
    Done(Result<T, Failure>),
}

/// Says how far the work is.
pub struct Progress<T>(watch::Sender<State<T>>);

impl<T> Progress<T> {
    pub fn report(&self, message: String) {
        self.0.send_replace(State::InProgress(message));
    }
}

/// Work under way, by what it is for.
pub struct SingleFlight<T>(Arc<Mutex<HashMap<String, watch::Receiver<State<T>>>>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Joins the work called `key`, or begins it with `work`, and waits for its end. `listen`
    /// hears how far it is.
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
                    // Whoever comes from here on begins anew.
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

/// Takes the work off the list, also when it panics.
struct RemoveOnDrop<T> {
    in_flight: Arc<Mutex<HashMap<String, watch::Receiver<State<T>>>>>,
    key: String,
}

impl<T> Drop for RemoveOnDrop<T> {
    fn drop(&mut self) {
        self.in_flight.lock().remove(&self.key);
    }
}
