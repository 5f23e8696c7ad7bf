//! What is in the cluster, as watches tell it: one store a kind, of our objects alone. A look is
//! a read of memory, and whoever waits for a change is woken by it.

use std::{fmt::Debug, sync::Arc, time::Duration};

use fsa_driver::{BoxStream, DriverError, Requeue, Result};
use fsa_model::{FailureKind, ProjectId};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{PersistentVolumeClaim, Pod, Secret, Service},
        networking::v1::{Ingress, NetworkPolicy},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store::Writer},
        utils::Backoff,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, broadcast, broadcast::error::RecvError, watch},
    task::JoinSet,
};

use crate::{
    cached_object::{self, Keep, Kept},
    connection::{Cluster, PATIENCE},
    event_diagnosis, objects,
    pods::{Names, Pods},
    project_notify::Changes,
    settings::{Settings, Style},
    warnings::{self, Warnings},
};

/// RequeueQueue that a slow listener may be behind by before it is told to look at everything.
const HINTS: usize = 1024;
/// The longest pause between two tries to begin a watch again; there are eight watches at most.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a change of our own may take to come back through the watch.
const ECHO: Duration = Duration::from_secs(5);

/// The stores.
pub struct Watched {
    pub deployments: Store<Kept<Deployment>>,
    pub services: Store<Kept<Service>>,
    pub policies: Store<Kept<NetworkPolicy>>,
    pub pods: Pods,
    pub claims: Store<Kept<PersistentVolumeClaim>>,
    /// Without what is in them.
    pub secrets: Store<PartialObjectMeta<Secret>>,
    pub ingresses: Store<Kept<Ingress>>,
    /// HTTPRoutes, where they are used.
    pub routes: Option<Store<Kept<DynamicObject>>>,
    /// What the cluster says of the pods.
    pub warnings: Warnings,
    told: Told,
    _tasks: JoinSet<()>,
}

/// What the tasks that watch share.
#[derive(Clone)]
pub struct Told {
    changes: Arc<Changes>,
    requeues: broadcast::Sender<Requeue>,
    /// The last error of a watch, for people.
    silence: watch::Sender<Option<String>>,
    /// A watch broke off.
    broke: Arc<Notify>,
    labels: String,
}

impl Told {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            changes: Arc::default(),
            requeues: broadcast::Sender::new(HINTS),
            silence: watch::Sender::new(None),
            broke: Arc::default(),
            labels: objects::selector(settings),
        }
    }

    /// The same for objects with other labels.
    #[must_use]
    pub fn selecting(&self, labels: &str) -> Self {
        Self {
            labels: labels.to_owned(),
            ..self.clone()
        }
    }

    /// Who should look again, from now on.
    #[must_use]
    pub fn requeues(&self) -> broadcast::Receiver<Requeue> {
        self.requeues.subscribe()
    }

    /// Whoever listens should look at what an object belongs to.
    fn requeue(&self, metadata: &ObjectMeta) {
        let about = objects::owner(metadata)
            .map(Requeue::Sandbox)
            .or_else(|| objects::project(metadata).map(Requeue::Project));
        if let Some(about) = about {
            // Nobody listens: nothing to do.
            let _ = self.requeues.send(about);
        }
    }

    /// As [`Changes::until`].
    pub async fn until<T>(&self, project: ProjectId, look: impl FnMut() -> Option<T>) -> T {
        self.changes.until(project, look).await
    }
}

impl Watched {
    /// Begins to watch. Must be called in a tokio runtime; the watches end with what is returned.
    #[must_use]
    pub fn begin(cluster: &Cluster, settings: &Settings) -> Self {
        let told = Told::new(settings);
        let mut tasks = JoinSet::new();
        tasks.spawn(tell_when_it_answers(cluster.client.clone(), told.clone()));
        let routes =
            (settings.expose.domain.is_some() && settings.expose.style == Style::HttpRoute).then(|| {
                let kind = objects::http_route_resource();
                let api = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &kind);
                follow_as(&mut tasks, &told, api, kind, Kept::new, is_news, |_| {})
            });
        let warnings = Warnings::default();
        let pods = pods(&mut tasks, &told, cluster, &warnings);
        tasks.spawn(warnings::follow(
            cluster.clone(),
            pods.store.clone(),
            warnings.clone(),
            Arc::clone(&told.changes),
        ));
        Self {
            deployments: plain(&mut tasks, &told, cluster),
            services: plain(&mut tasks, &told, cluster),
            policies: plain(&mut tasks, &told, cluster),
            pods,
            claims: claims(&mut tasks, &told, cluster),
            secrets: follow(&mut tasks, &told, namespaced(cluster), ()),
            ingresses: plain(&mut tasks, &told, cluster),
            routes,
            warnings,
            told,
            _tasks: tasks,
        }
    }

    /// An HTTPRoute of this name, where they are watched.
    #[must_use]
    pub fn route(&self, namespace: &str, name: &str) -> Option<Arc<Kept<DynamicObject>>> {
        let wanted = ObjectRef::new_with(name, objects::http_route_resource()).within(namespace);
        self.routes.as_ref()?.get(&wanted)
    }

    /// Waits until everything was listed once.
    ///
    /// # Errors
    /// The cluster does not answer, or does not let us watch.
    pub async fn ready(&self) -> Result<()> {
        let all = async {
            let _ = tokio::join!(
                self.deployments.wait_until_ready(),
                self.services.wait_until_ready(),
                self.policies.wait_until_ready(),
                self.pods.store.wait_until_ready(),
                self.claims.wait_until_ready(),
                self.secrets.wait_until_ready(),
                self.ingresses.wait_until_ready(),
                async {
                    if let Some(routes) = &self.routes {
                        let _ = routes.wait_until_ready().await;
                    }
                },
            );
        };
        tokio::time::timeout(PATIENCE, all).await.map_err(|_| {
            let why = self.told.silence.borrow().clone().map_or_else(
                || "it does not answer".to_owned(),
                |said| format!("it says: {said}"),
            );
            DriverError::new(
                FailureKind::Transient,
                format!("what is in the cluster is not known yet ({why}); it is tried again"),
            )
        })
    }

    /// Who should look again, from now on.
    pub fn requeues(&self) -> broadcast::Receiver<Requeue> {
        self.told.requeues()
    }

    /// As [`Changes::until`].
    pub async fn until<T>(&self, project: ProjectId, look: impl FnMut() -> Option<T>) -> T {
        self.told.until(project, look).await
    }

    /// Waits until `look` finds that something which was just done has come back through the
    /// watch. Where that takes long, the next look may be a little behind, which is no error.
    pub async fn echo(&self, project: ProjectId, mut look: impl FnMut() -> bool) {
        let _ = tokio::time::timeout(ECHO, self.until(project, || look().then_some(()))).await;
    }
}

/// The object of that name.
#[must_use]
pub fn named<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

fn namespaced<K>(cluster: &Cluster) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

fn plain<K>(tasks: &mut JoinSet<()>, told: &Told, cluster: &Cluster) -> Store<Kept<K>>
where
    K: Keep
        + Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    follow_as(tasks, told, namespaced(cluster), (), Kept::new, is_news, |_| {})
}

/// Whether somebody should look again because of what is kept of an object now.
fn is_news<K: Keep>(before: Option<&Kept<K>>, now: &Kept<K>) -> bool {
    before.is_none_or(|before| before.is_news(now))
}

/// The claims of home volumes. They bear no sandbox's name, so that a requeue is for the whole project; and a new one is
/// of our own making.
fn claims(tasks: &mut JoinSet<()>, told: &Told, cluster: &Cluster) -> Store<Kept<PersistentVolumeClaim>> {
    let is_news = |before: Option<&Kept<_>>, now: &Kept<_>| before.is_some_and(|before| before.is_news(now));
    follow_as(tasks, told, namespaced(cluster), (), Kept::new, is_news, |_| {})
}

/// The pods, with what their own status says of how they ended.
fn pods(tasks: &mut JoinSet<()>, told: &Told, cluster: &Cluster, warnings: &Warnings) -> Pods {
    let warnings = warnings.clone();
    let names = Names::default();
    let told_names = names.clone();
    // What it is made of is of no use here, and takes more room than how it is.
    let keep = |mut pod: Pod| {
        pod.managed_fields_mut().clear();
        pod.spec = None;
        pod
    };
    let also = move |event: &Event<Pod>| {
        told_names.take(event);
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => {
                if let Some(warning) = event_diagnosis::ended(pod) {
                    warnings.take(pod, warning);
                }
            }
            Event::Delete(pod) => warnings.forget(pod),
            Event::Init | Event::InitDone => {}
        }
    };
    let store = follow_as(tasks, told, namespaced(cluster), (), keep, |_, _| true, also);
    Pods::new(store, names)
}

/// RequeueQueue as a stream; who fell behind has to look at everything.
#[must_use]
pub fn stream_of(requeues: broadcast::Receiver<Requeue>) -> BoxStream<Requeue> {
    stream::unfold(requeues, |mut requeues| async move {
        match requeues.recv().await {
            Ok(requeue) => Some((requeue, requeues)),
            Err(RecvError::Lagged(_)) => Some((Requeue::Everything, requeues)),
            Err(RecvError::Closed) => None,
        }
    })
    .boxed()
}

/// How long a watch that broke off waits before it is begun again: as the library does, with its
/// jitter, yet never so long that a cluster which is back stays unknown for half a minute.
#[derive(Default)]
pub struct Patience(watcher::DefaultBackoff);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST_PAUSE))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Says that the cluster answers again, each time after a watch has broken off. A watch does not tell:
/// one that goes on where it was is silent until something changes.
async fn tell_when_it_answers(client: Client, told: Told) {
    loop {
        told.broke.notified().await;
        for pause in Patience::default() {
            tokio::time::sleep(pause).await;
            // To be refused is an answer too.
            let asked = tokio::time::timeout(PATIENCE, client.apiserver_version()).await;
            if matches!(asked, Ok(Ok(_) | Err(kube::Error::Api(_)))) {
                break;
            }
        }
        let _ = told.requeues.send(Requeue::Answers);
    }
}

/// Watches a kind, into a store of whole objects.
pub fn follow<K>(tasks: &mut JoinSet<()>, told: &Told, api: Api<K>, kind: K::DynamicType) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Eq + std::hash::Hash + Send + Sync + Unpin,
{
    // Who changed which field is of no use here, and takes more room than the object.
    let keep = |mut object: K| {
        object.managed_fields_mut().clear();
        object
    };
    follow_as(tasks, told, api, kind, keep, |_, _| true, |_| {})
}

/// Watches a kind, into a store of what `keep` makes of each object. Where that `is_news` beside what was kept before,
/// somebody should look again; as they should when it is gone. Each event is also shown to `also`, once the store has it.
fn follow_as<K, S>(
    tasks: &mut JoinSet<()>,
    told: &Told,
    api: Api<K>,
    kind: S::DynamicType,
    keep: impl Fn(K) -> S + Send + 'static,
    is_news: impl Fn(Option<&S>, &S) -> bool + Send + 'static,
    also: impl Fn(&Event<S>) + Send + 'static,
) -> Store<S>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    S: Resource + Clone + Debug + Send + Sync + 'static,
    S::DynamicType: Clone + Debug + Eq + std::hash::Hash + Send + Sync + Unpin,
{
    let mut writer = Writer::<S>::new(kind.clone());
    let store = writer.as_reader();
    let events =
        watcher::watcher(api, watcher::Config::default().labels(&told.labels)).backoff(Patience::default());
    let mut events = Box::pin(events);
    let (told, known) = (told.clone(), store.clone());
    tasks.spawn(async move {
        let mut began = false;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => cached_object::each(event, &keep),
                Err(error) => {
                    tracing::warn!(%error, "a watch of the cluster broke off; it is begun again");
                    told.silence.send_replace(Some(error.to_string()));
                    told.broke.notify_one();
                    continue;
                }
            };
            let news = match &event {
                Event::Apply(object) => {
                    let before = known.get(&ObjectRef::from_obj_with(object, kind.clone()));
                    is_news(before.as_deref(), object)
                }
                _ => true,
            };
            writer.apply_watcher_event(&event);
            also(&event);
            match event {
                Event::Apply(object) | Event::Delete(object) => {
                    // Its version may be what somebody waits for, although nothing else of it has changed.
                    told.changes.tell(objects::project(object.meta()));
                    if news {
                        told.requeue(object.meta());
                    }
                }
                Event::InitDone => {
                    // What was missed in between cannot be named.
                    if began {
                        let _ = told.requeues.send(Requeue::Everything);
                    }
                    began = true;
                    told.silence.send_replace(None);
                    told.changes.tell(None);
                }
                Event::Init | Event::InitApply(_) => {}
            }
        }
    });
    store
}
