//! Cache of routes from a host name to a sandbox, so that a request costs no query.
//!
//! One query resolves one host name. Its result is valid until a notification reports a change of the project
//! or of the credentials of a user who may see it ([`crate::store::notify`]), and never for longer than
//! [`LONGEST`], so a lost notification costs two seconds. Before that, a background task refreshes a host that
//! is in use.

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
        notify::{Interest, Topic},
        previews::{self, PortAccess, Preview},
        sandboxes::SandboxRow,
    },
};

/// Maximum age of a cached route.
const LONGEST: Duration = Duration::from_secs(2);
/// Age from which a route in use is refreshed.
const RENEW: Duration = Duration::from_millis(1200);
/// Maximum number of cached host names; beyond it, those not used lately are evicted.
const HOSTS_MOST: usize = 4096;
const UNUSED: Duration = Duration::from_secs(30);

/// Target of a host name, and who may access it.
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

/// The port behind a host name.
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

/// Upper bound on the ports that a browser is led through ([`super::handoff::begin_chain`]): browsers follow 20 redirects.
const CHAIN_MOST: usize = 8;

impl Route {
    /// The other ports on which the sandbox listens, as far as it reports them.
    pub(super) fn other_ports(&self) -> Vec<u16> {
        let Target::Open { sandbox, .. } = &self.target else {
            return Vec::new();
        };
        let reported = sandbox.status.iter().flat_map(|status| &status.ports);
        let others: BTreeSet<u16> = reported
            .map(|listening| listening.port)
            .filter(|port| ![0, self.port, TERMINAL_PORT].contains(port))
            .collect();
        others.into_iter().take(CHAIN_MOST).collect()
    }
}

/// The cache; see the module.
#[derive(Default)]
pub(super) struct Routes {
    entries: RwLock<HashMap<String, Arc<Entry>>>,
}

struct Entry {
    host: Host,
    state: Mutex<State>,
    /// Single flight: one query at a time; the others wait for it.
    looking: tokio::sync::Mutex<()>,
    renewing: AtomicBool,
}

#[derive(Default)]
struct State {
    route: Option<Arc<Route>>,
    /// When the query for `route` began; `None` if the route is stale.
    at: Option<Instant>,
    /// The start of the sandbox that the pool in `route` belongs to.
    start: Option<Start>,
    /// The project and users of the last result, and the subscriptions to their changes.
    watched: Option<(ProjectId, BTreeSet<UserId>, Vec<Interest>)>,
    /// Number of changes reported. The result of a query during which it grew is not used.
    doubts: u64,
}

/// One start of a sandbox, identified by what the table records of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Start {
    sandbox: SandboxId,
    generation: i64,
    restarts: i64,
}

impl Routes {
    /// The route for `label` (the host name without the apps domain); `None` if it leads nowhere.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn find(&self, core: &Core, label: &str) -> Result<Option<Arc<Route>>> {
        let known = self.entries.read().get(label).cloned();
        let entry = match known {
            Some(entry) => entry,
            None => match parse_host(label) {
                Some(host) => self.enter(label, host),
                None => return Ok(None),
            },
        };
        if let Some((route, age)) = entry.fresh() {
            if age > RENEW && !entry.renewing.swap(true, Ordering::AcqRel) {
                let (core, entry) = (core.clone(), Arc::clone(&entry));
                tokio::spawn(async move {
                    if let Err(error) = entry.look_up(&core).await {
                        tracing::warn!(%error, "a host name could not be looked up anew");
                    }
                    entry.renewing.store(false, Ordering::Release);
                });
            }
            return Ok(route);
        }
        let _one = entry.looking.lock().await;
        if let Some((route, _)) = entry.fresh() {
            return Ok(route);
        }
        entry.look_up(core).await
    }

    fn enter(&self, label: &str, host: Host) -> Arc<Entry> {
        let mut entries = self.entries.write();
        if entries.len() >= HOSTS_MOST {
            entries.retain(|_, entry| entry.state.lock().at.is_some_and(|at| at.elapsed() < UNUSED));
            if entries.len() >= HOSTS_MOST {
                entries.clear();
            }
        }
        let entry = entries.entry(label.to_owned()).or_insert_with(|| {
            Arc::new(Entry {
                host,
                state: Mutex::default(),
                looking: tokio::sync::Mutex::new(()),
                renewing: AtomicBool::new(false),
            })
        });
        Arc::clone(entry)
    }
}

impl State {
    /// Whether a change was reported since the last call.
    fn is_doubted(&mut self) -> bool {
        let said = self.watched.as_mut().is_some_and(|(_, _, interests)| {
            // Poll all of them, so that none reports the same change again.
            let mut said = false;
            for interest in interests {
                said |= interest.changed().now_or_never().is_some();
            }
            said
        });
        if said {
            self.doubts += 1;
            self.at = None;
        }
        said
    }
}

impl Entry {
    /// The cached route and its age, if it is still valid.
    fn fresh(&self) -> Option<(Option<Arc<Route>>, Duration)> {
        let mut state = self.state.lock();
        if state.is_doubted() {
            return None;
        }
        let age = state.at?.elapsed();
        (age < LONGEST).then(|| (state.route.clone(), age))
    }

    async fn look_up(&self, core: &Core) -> Result<Option<Arc<Route>>> {
        let mut route = None;
        // Two queries if the host led elsewhere until now; more only if it changes owner during the query.
        for _ in 0..4 {
            let doubts = {
                let mut state = self.state.lock();
                state.is_doubted();
                state.doubts
            };
            let at = Instant::now();
            let found = previews::by_host(&core.store, &self.host).await?;
            let mut state = self.state.lock();
            let Some(found) = found else {
                state.route = None;
                state.at = Some(at);
                state.watched = None;
                return Ok(None);
            };
            let (project, people) = (
                found.access.project,
                found.access.people.keys().copied().collect::<BTreeSet<_>>(),
            );
            let watched = state
                .watched
                .as_ref()
                .is_some_and(|(watched, them, _)| *watched == project && *them == people);
            let (found, start) = to_route(core, found, &state);
            let found = Arc::new(found);
            state.route = Some(Arc::clone(&found));
            state.start = start;
            state.at = None;
            if watched {
                state.at = (state.doubts == doubts).then_some(at);
                return Ok(Some(found));
            }
            // Subscribe before the query whose result is used.
            let topics = people.iter().map(|user| Topic::Credentials(*user));
            let interests = std::iter::once(Topic::Project(project))
                .chain(topics)
                .map(|topic| core.hub.interest(topic))
                .collect();
            state.watched = Some((project, people, interests));
            route = Some(found);
        }
        Ok(route)
    }
}

fn to_route(core: &Core, preview: Preview, before: &State) -> (Route, Option<Start>) {
    let (target, start) = match preview.sandbox {
        None => (Target::None, None),
        Some(sandbox) => target(core, sandbox, preview.region, preview.access.port, before),
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
    before: &State,
) -> (Target, Option<Start>) {
    let phase = sandbox.phase();
    let closed = |failure| (Target::Closed { phase, failure }, None);
    if sandbox.container != ContainerState::Running || sandbox.desired_state != DesiredState::Running {
        return closed(sandbox.failure.as_ref().map(|failure| failure.message.clone()));
    }
    let Some(known) = core.regions.get(&region) else {
        return closed(Some(format!(
            "The region {region} is not configured on this server."
        )));
    };
    let start = Start {
        sandbox: sandbox.id,
        generation: sandbox.observed_generation,
        restarts: sandbox.restarts,
    };
    let kept = match before.route.as_deref().map(|route| &route.target) {
        Some(Target::Open { upstream, .. }) if before.start == Some(start) => Some(Arc::clone(upstream)),
        _ => None,
    };
    let upstream =
        kept.unwrap_or_else(|| Upstream::new(Arc::clone(&known.driver), sandbox.reference(), port));
    let target = Target::Open {
        upstream,
        sandbox: Box::new(sandbox),
        region,
    };
    (target, Some(start))
}
