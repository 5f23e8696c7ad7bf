//! Cache of routes from a host name to a sandbox, so that a request costs no query.
//!
//! One query resolves one host name. Its result is valid until a notification reports a change of the project
//! or of the credentials of a user who may see it ([`crate::store::notify`]), and for at most [`MAX_AGE`], in case a
//! notification is lost. A background task refreshes a host in use before its route expires.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fsa_model::{
    ContainerState, DesiredState, Phase, ProjectId, SandboxId, UserId,
    host::{Host, parse_host},
    sandboxd::TERMINAL_PORT,
};
use futures_util::FutureExt as _;
use parking_lot::{Mutex, RwLock};

use super::upstream::Upstream;
use crate::{
    core::Core,
    error::Result,
    store::{
        notify::{Subscription, Topic},
        previews::{self, PortAccess, Preview},
        sandboxes::SandboxRow,
    },
};

/// Maximum age of a cached route.
const MAX_AGE: Duration = Duration::from_secs(2);
/// Age from which a route in use is refreshed.
const REFRESH_AGE: Duration = Duration::from_millis(1200);
/// Maximum number of cached host names. At this number, those not used lately are evicted.
const MAX_HOSTS: usize = 4096;
const EVICT_UNUSED_AFTER: Duration = Duration::from_secs(30);

/// The port that a host name leads to, and who may access it.
pub(super) struct Route {
    pub access: PortAccess,
    pub target: Target,
}

impl std::ops::Deref for Route {
    type Target = PortAccess;

    fn deref(&self) -> &PortAccess {
        &self.access
    }
}

/// State of the port behind a host name.
pub(super) enum Target {
    Open {
        upstream: Arc<Upstream>,
        sandbox: Box<SandboxRow>,
        region: String,
    },
    /// The sandbox does not run.
    Closed { phase: Phase, failure: Option<String> },
    /// The project has no sandbox.
    None,
}

/// Maximum number of ports in a chain of redirects ([`super::handoff::begin_chain`]): browsers follow 20 redirects.
const MAX_CHAIN_PORTS: usize = 8;

impl Route {
    /// The other ports on which the sandbox reports listeners.
    pub(super) fn other_ports(&self) -> Vec<u16> {
        let Target::Open { sandbox, .. } = &self.target else {
            return Vec::new();
        };
        let reported = sandbox.status.iter().flat_map(|status| &status.ports);
        let others: BTreeSet<u16> = reported
            .map(|listening| listening.port)
            .filter(|port| ![0, self.port, TERMINAL_PORT].contains(port))
            .collect();
        others.into_iter().take(MAX_CHAIN_PORTS).collect()
    }
}

/// The cache of routes.
#[derive(Default)]
pub(super) struct Routes {
    entries: RwLock<HashMap<String, Arc<Entry>>>,
}

struct Entry {
    host: Host,
    state: Mutex<State>,
    /// Single flight: one query at a time, whose result the others wait for.
    lookup: tokio::sync::Mutex<()>,
    refreshing: AtomicBool,
}

#[derive(Default)]
struct State {
    route: Option<Arc<Route>>,
    /// When the query for `route` began; `None` if the route is stale.
    at: Option<Instant>,
    /// The start of the sandbox that the connection pool in `route` belongs to.
    start: Option<Start>,
    subscriptions: Option<Subscriptions>,
    /// Number of changes reported. If it grows during a query, the result is not cached.
    changes: u64,
}

/// Subscriptions to changes of a route's project and users.
struct Subscriptions {
    project: ProjectId,
    people: BTreeSet<UserId>,
    subscriptions: Vec<Subscription>,
}

/// One start of a sandbox, identified by columns of its row.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Start {
    sandbox: SandboxId,
    generation: i64,
    restarts: i64,
}

impl Routes {
    /// The route for `label` (the host name without the apps domain); `None` if there is no such project.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn find(&self, core: &Core, label: &str) -> Result<Option<Arc<Route>>> {
        let cached = self.entries.read().get(label).cloned();
        let entry = match cached {
            Some(entry) => entry,
            None => match parse_host(label) {
                Some(host) => self.insert(label, host),
                None => return Ok(None),
            },
        };
        if let Some((route, age)) = entry.fresh() {
            if age > REFRESH_AGE && !entry.refreshing.swap(true, Ordering::AcqRel) {
                let (core, entry) = (core.clone(), Arc::clone(&entry));
                tokio::spawn(async move {
                    if let Err(error) = entry.query(&core).await {
                        tracing::warn!(%error, "the route of a host name could not be refreshed");
                    }
                    entry.refreshing.store(false, Ordering::Release);
                });
            }
            return Ok(route);
        }
        let _one = entry.lookup.lock().await;
        if let Some((route, _)) = entry.fresh() {
            return Ok(route);
        }
        entry.query(core).await
    }

    fn insert(&self, label: &str, host: Host) -> Arc<Entry> {
        let mut entries = self.entries.write();
        if entries.len() >= MAX_HOSTS {
            entries.retain(|_, entry| {
                entry
                    .state
                    .lock()
                    .at
                    .is_some_and(|at| at.elapsed() < EVICT_UNUSED_AFTER)
            });
            if entries.len() >= MAX_HOSTS {
                entries.clear();
            }
        }
        let entry = entries.entry(label.to_owned()).or_insert_with(|| {
            Arc::new(Entry {
                host,
                state: Mutex::default(),
                lookup: tokio::sync::Mutex::new(()),
                refreshing: AtomicBool::new(false),
            })
        });
        Arc::clone(entry)
    }
}

impl State {
    /// Marks the route as stale if a change was reported since the last call. Returns whether it was.
    fn note_changes(&mut self) -> bool {
        let changed = self.subscriptions.as_mut().is_some_and(|subscriptions| {
            // Poll all of them, so that none reports the same change again.
            let mut changed = false;
            for subscription in &mut subscriptions.subscriptions {
                changed |= subscription.changed().now_or_never().is_some();
            }
            changed
        });
        if changed {
            self.changes += 1;
            self.at = None;
        }
        changed
    }
}

impl Entry {
    /// The cached route and its age, if it is still valid.
    fn fresh(&self) -> Option<(Option<Arc<Route>>, Duration)> {
        let mut state = self.state.lock();
        if state.note_changes() {
            return None;
        }
        let age = state.at?.elapsed();
        (age < MAX_AGE).then(|| (state.route.clone(), age))
    }

    async fn query(&self, core: &Core) -> Result<Option<Arc<Route>>> {
        let mut route = None;
        // The second query follows a change of the project or its users; more, only changes during the query.
        for _ in 0..4 {
            let changes = {
                let mut state = self.state.lock();
                state.note_changes();
                state.changes
            };
            let at = Instant::now();
            let preview = previews::by_host(&core.store, &self.host).await?;
            let mut state = self.state.lock();
            let Some(preview) = preview else {
                state.route = None;
                state.at = Some(at);
                state.subscriptions = None;
                return Ok(None);
            };
            let (project, people) = (
                preview.access.project,
                preview.access.people.keys().copied().collect::<BTreeSet<_>>(),
            );
            let is_subscribed = state
                .subscriptions
                .as_ref()
                .is_some_and(|known| known.project == project && known.people == people);
            let (resolved, start) = to_route(core, preview, &state);
            let resolved = Arc::new(resolved);
            state.route = Some(Arc::clone(&resolved));
            state.start = start;
            state.at = None;
            if is_subscribed {
                state.at = (state.changes == changes).then_some(at);
                return Ok(Some(resolved));
            }
            // Subscribe before the query whose result is used.
            let topics = people.iter().map(|user| Topic::Credentials(*user));
            let subscriptions = std::iter::once(Topic::Project(project))
                .chain(topics)
                .map(|topic| core.hub.subscribe(topic))
                .collect();
            state.subscriptions = Some(Subscriptions {
                project,
                people,
                subscriptions,
            });
            route = Some(resolved);
        }
        Ok(route)
    }
}

fn to_route(core: &Core, preview: Preview, previous: &State) -> (Route, Option<Start>) {
    let (target, start) = match preview.sandbox {
        None => (Target::None, None),
        Some(sandbox) => target(core, sandbox, preview.region, preview.access.port, previous),
    };
    let route = Route {
        access: preview.access,
        target,
    };
    (route, start)
}

fn target(
    core: &Core,
    sandbox: SandboxRow,
    region: String,
    port: u16,
    previous: &State,
) -> (Target, Option<Start>) {
    let phase = sandbox.phase();
    let closed = |failure| (Target::Closed { phase, failure }, None);
    if sandbox.container != ContainerState::Running || sandbox.desired_state != DesiredState::Running {
        return closed(sandbox.failure.as_ref().map(|failure| failure.message.clone()));
    }
    let Some(configured) = core.regions.get(&region) else {
        return closed(Some(format!(
            "The region {region} is not configured on this server."
        )));
    };
    let start = Start {
        sandbox: sandbox.id,
        generation: sandbox.observed_generation,
        restarts: sandbox.restarts,
    };
    let reused = match previous.route.as_deref().map(|route| &route.target) {
        Some(Target::Open { upstream, .. }) if previous.start == Some(start) => Some(Arc::clone(upstream)),
        _ => None,
    };
    let upstream =
        reused.unwrap_or_else(|| Upstream::new(Arc::clone(&configured.driver), sandbox.reference(), port));
    let target = Target::Open {
        upstream,
        sandbox: Box::new(sandbox),
        region,
    };
    (target, Some(start))
}
