//! Change notifications from the database (LISTEN/NOTIFY), passed on to subscribers.
//!
//! One connection per process listens (`fsa_desired_state`, `fsa_event`, `fsa_sandbox`, `fsa_auth`). A notification
//! wakes the tasks that subscribed before they read the database. It carries no data, so notifications can be merged
//! and a slow reader costs no memory. After a lost connection every subscriber is woken once, because notifications
//! may have been missed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fsa_model::{ProjectId, UserId};
use parking_lot::Mutex;
use sqlx::{PgPool, postgres::PgListener};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

const CHANNELS: [&str; 5] = [
    "fsa_desired_state",
    "fsa_event",
    "fsa_sandbox",
    "fsa_auth",
    "fsa_heartbeat",
];
/// Interval of the listener's notification to itself. A connection without any notification for three intervals is
/// dead.
const HEARTBEAT: Duration = Duration::from_secs(20);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// A topic to subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The desired state of any sandbox changed.
    DesiredState,
    /// A project that this user owns or that is shared with them has a new event.
    Events(UserId),
    /// The desired or observed state of a sandbox of this project changed, or the project has a new event.
    Project(ProjectId),
    /// A credential of this user may have ended.
    Credentials(UserId),
}

/// Wakes subscribers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    topics: Mutex<HashMap<Topic, watch::Sender<()>>>,
    listening: AtomicBool,
}

/// A subscription to a topic. It misses no change after its creation.
pub struct Subscription {
    topic: Topic,
    receiver: watch::Receiver<()>,
    hub: Hub,
}

impl Hub {
    /// Listens until `shutdown`. Calls `invalidate` with the user whose credentials changed (`None`: perhaps those of
    /// all users).
    pub fn start(
        pool: PgPool,
        shutdown: CancellationToken,
        invalidate: impl Fn(Option<UserId>) + Send + Sync + 'static,
    ) -> Self {
        let hub = Self::default();
        let listener = hub.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = listener.listen(&pool, &invalidate) => {}
            }
        });
        hub
    }

    /// Subscribes to a topic. Subscribe first, then read the database.
    #[must_use]
    pub fn subscribe(&self, topic: Topic) -> Subscription {
        let receiver = self
            .shared
            .topics
            .lock()
            .entry(topic)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Subscription {
            topic,
            receiver,
            hub: self.clone(),
        }
    }

    /// Whether the listener's connection is up.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.shared.listening.load(Ordering::Relaxed)
    }

    /// Wakes the subscribers of `topic` in this process.
    pub fn wake(&self, topic: Topic) {
        if let Some(sender) = self.shared.topics.lock().get(&topic) {
            sender.send_replace(());
        }
    }

    fn wake_all(&self) {
        for sender in self.shared.topics.lock().values() {
            sender.send_replace(());
        }
    }

    async fn listen(&self, pool: &PgPool, invalidate: &(impl Fn(Option<UserId>) + Sync)) {
        let mut retry = FIRST_RETRY;
        loop {
            let ended = self.listen_once(pool, invalidate, &mut retry).await;
            self.shared.listening.store(false, Ordering::Relaxed);
            invalidate(None);
            tracing::warn!(
                error = %ended,
                "the connection that listens to the control database was lost; trying again"
            );
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn listen_once(
        &self,
        pool: &PgPool,
        invalidate: &(impl Fn(Option<UserId>) + Sync),
        retry: &mut Duration,
    ) -> sqlx::Error {
        let mut listener = match listener(pool).await {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        *retry = FIRST_RETRY;
        self.shared.listening.store(true, Ordering::Relaxed);
        invalidate(None);
        self.wake_all();
        let mut last_received = Instant::now();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            let mut next = std::pin::pin!(listener.try_recv());
            let notification = loop {
                tokio::select! {
                    notification = &mut next => break notification,
                    _ = heartbeat.tick() => {
                        if last_received.elapsed() > HEARTBEAT * 3 {
                            return sqlx::Error::Io(std::io::Error::other("no notification arrived for a minute"));
                        }
                        if let Err(error) = sqlx::query("select pg_notify('fsa_heartbeat', '')").execute(pool).await {
                            tracing::debug!(%error, "the listener's heartbeat could not be sent");
                        }
                    }
                }
            };
            match notification {
                Ok(Some(notification)) => {
                    last_received = Instant::now();
                    self.deliver(notification.channel(), notification.payload(), invalidate);
                }
                Ok(None) => {
                    return sqlx::Error::Io(std::io::Error::other("the server closed the connection"));
                }
                Err(error) => return error,
            }
        }
    }

    fn deliver(&self, channel: &str, payload: &str, invalidate: &(impl Fn(Option<UserId>) + Sync)) {
        match channel {
            "fsa_desired_state" => self.wake(Topic::DesiredState),
            "fsa_sandbox" => {
                if let Ok(project) = payload.parse() {
                    self.wake(Topic::Project(project));
                }
            }
            "fsa_event" => {
                let mut words = payload.split(' ');
                if let Some(Ok(owner)) = words.next().map(str::parse) {
                    self.wake(Topic::Events(owner));
                }
                if let Some(Ok(project)) = words.next().map(str::parse) {
                    self.wake(Topic::Project(project));
                }
                // After the event's id come the users that the project is shared with.
                for reader in words.skip(1).filter_map(|word| word.parse().ok()) {
                    self.wake(Topic::Events(reader));
                }
            }
            "fsa_auth" => {
                let user = payload.parse().ok();
                invalidate(user);
                if let Some(user) = user {
                    self.wake(Topic::Credentials(user));
                }
            }
            _ => {}
        }
    }
}

async fn listener(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen_all(CHANNELS).await?;
    Ok(listener)
}

impl Subscription {
    /// Waits until the topic may have changed since the last call, or since the subscription.
    pub async fn changed(&mut self) {
        // The hub keeps the sender while this subscription exists.
        let _ = self.receiver.changed().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut topics = self.hub.shared.topics.lock();
        // The receiver being dropped is still counted.
        if topics
            .get(&self.topic)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_after_the_subscription_are_not_missed() {
        let hub = Hub::default();
        let topic = Topic::Project(ProjectId::generate());
        let mut subscription = hub.subscribe(topic);
        hub.wake(topic);
        hub.wake(topic);
        subscription.changed().await;
        let mut other = hub.subscribe(topic);
        hub.wake(topic);
        tokio::join!(subscription.changed(), other.changed());
    }

    #[test]
    fn topics_without_subscribers_take_no_memory() {
        let hub = Hub::default();
        let first = hub.subscribe(Topic::DesiredState);
        let second = hub.subscribe(Topic::DesiredState);
        drop(first);
        assert_eq!(hub.shared.topics.lock().len(), 1);
        drop(second);
        assert!(hub.shared.topics.lock().is_empty());
    }

    #[test]
    fn invalid_notifications_are_ignored() {
        let hub = Hub::default();
        for channel in CHANNELS {
            hub.deliver(channel, "nonsense \u{0}", &|_| {});
            hub.deliver(channel, "", &|_| {});
        }
    }
}
