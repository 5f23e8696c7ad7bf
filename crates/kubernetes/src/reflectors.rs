//! Reflectors: one watch and one store for each kind of object, limited to our own. An observation reads memory only,
//! and changes wake those who wait for them.

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
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, broadcast, broadcast::error::RecvError, watch},
    task::JoinSet,
};

use crate::{
    cached_object::{self, CachedObject, Summarize},
    connection::{CALL_TIMEOUT, Cluster},
    event_diagnosis, objects,
    pods::{PodNames, Pods},
    project_notify::ProjectNotify,
    settings::{Settings, Style},
    warnings::{self, Warnings},
    watch_backoff::WatchBackoff,
};

/// Requeues that a slow subscriber may fall behind by before it gets [`Requeue::Everything`] instead.
const REQUEUE_BUFFER: usize = 1024;
/// How long a change of our own may take to arrive through the watch.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The stores.
pub struct Reflectors {
    pub deployments: Store<CachedObject<Deployment>>,
    pub services: Store<CachedObject<Service>>,
    pub policies: Store<CachedObject<NetworkPolicy>>,
    pub pods: Pods,
    pub claims: Store<CachedObject<PersistentVolumeClaim>>,
    /// Metadata only, without the values.
    pub secrets: Store<PartialObjectMeta<Secret>>,
    pub ingresses: Store<CachedObject<Ingress>>,
    /// HTTPRoutes, if the settings use them.
    pub routes: Option<Store<CachedObject<DynamicObject>>>,
    /// The cluster's warnings about the pods.
    pub warnings: Warnings,
    context: WatchContext,
    _tasks: JoinSet<()>,
}

/// What the watch tasks share.
#[derive(Clone)]
pub struct WatchContext {
    project_notify: Arc<ProjectNotify>,
    requeues: broadcast::Sender<Requeue>,
    /// The last error of a watch, for people.
    last_error: watch::Sender<Option<String>>,
    /// A watch failed.
    disconnected: Arc<Notify>,
    /// The label selector of the watches.
    labels: String,
}

impl WatchContext {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            project_notify: Arc::default(),
            requeues: broadcast::Sender::new(REQUEUE_BUFFER),
            last_error: watch::Sender::new(None),
            disconnected: Arc::default(),
            labels: objects::selector(settings),
        }
    }

    /// The same context for objects with other labels.
    #[must_use]
    pub fn selecting(&self, labels: &str) -> Self {
        Self {
            labels: labels.to_owned(),
            ..self.clone()
        }
    }

    /// Requeues from now on.
    #[must_use]
    pub fn requeues(&self) -> broadcast::Receiver<Requeue> {
        self.requeues.subscribe()
    }

    /// Requeues the sandbox or project that an object belongs to.
    fn requeue(&self, metadata: &ObjectMeta) {
        let requeue = objects::owner(metadata)
            .map(Requeue::Sandbox)
            .or_else(|| objects::project(metadata).map(Requeue::Project));
        if let Some(requeue) = requeue {
            // An error means that there is no subscriber.
            let _ = self.requeues.send(requeue);
        }
    }

    /// As [`ProjectNotify::until`].
    pub async fn until<T>(&self, project: ProjectId, check: impl FnMut() -> Option<T>) -> T {
        self.project_notify.until(project, check).await
    }
}

impl Reflectors {
    /// Starts the watches. Must be called in a tokio runtime; the watches end when the value is dropped.
    #[must_use]
    pub fn start(cluster: &Cluster, settings: &Settings) -> Self {
        let context = WatchContext::new(settings);
        let mut tasks = JoinSet::new();
        tasks.spawn(notify_when_reachable(cluster.client.clone(), context.clone()));
        let routes =
            (settings.expose.domain.is_some() && settings.expose.style == Style::HttpRoute).then(|| {
                let kind = objects::http_route_resource();
                let api = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &kind);
                reflect_as(
                    &mut tasks,
                    &context,
                    api,
                    kind,
                    CachedObject::new,
                    is_change,
                    |_| {},
                )
            });
        let warnings = Warnings::default();
        let pods = pods(&mut tasks, &context, cluster, &warnings);
        tasks.spawn(warnings::watch_events(
            cluster.clone(),
            pods.store.clone(),
            warnings.clone(),
            Arc::clone(&context.project_notify),
        ));
        Self {
            deployments: summaries(&mut tasks, &context, cluster),
            services: summaries(&mut tasks, &context, cluster),
            policies: summaries(&mut tasks, &context, cluster),
            pods,
            claims: claims(&mut tasks, &context, cluster),
            secrets: reflect(&mut tasks, &context, namespaced(cluster), ()),
            ingresses: summaries(&mut tasks, &context, cluster),
            routes,
            warnings,
            context,
            _tasks: tasks,
        }
    }

    /// The HTTPRoute of this name, if HTTPRoutes are watched.
    #[must_use]
    pub fn route(&self, namespace: &str, name: &str) -> Option<Arc<CachedObject<DynamicObject>>> {
        let reference = ObjectRef::new_with(name, objects::http_route_resource()).within(namespace);
        self.routes.as_ref()?.get(&reference)
    }

    /// Waits until every kind was listed once.
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
        tokio::time::timeout(CALL_TIMEOUT, all).await.map_err(|_| {
            let why = self.context.last_error.borrow().clone().map_or_else(
                || "the Kubernetes API does not answer".to_owned(),
                |error| format!("the Kubernetes API answers: {error}"),
            );
            DriverError::new(
                FailureKind::Transient,
                format!("the cluster's objects are not listed yet ({why}); it is retried"),
            )
        })
    }

    /// Requeues from now on.
    pub fn requeues(&self) -> broadcast::Receiver<Requeue> {
        self.context.requeues()
    }

    /// As [`ProjectNotify::until`].
    pub async fn until<T>(&self, project: ProjectId, check: impl FnMut() -> Option<T>) -> T {
        self.context.until(project, check).await
    }

    /// Waits until `check` finds that a change of our own has arrived through the watch. A timeout is no error: the
    /// next observation may then be out of date.
    pub async fn wait_until_observed(&self, project: ProjectId, mut check: impl FnMut() -> bool) {
        let observed = self.until(project, || check().then_some(()));
        let _ = tokio::time::timeout(OBSERVE_TIMEOUT, observed).await;
    }
}

/// The object of this name.
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

/// Watches a kind, into a store of summaries.
fn summaries<K>(tasks: &mut JoinSet<()>, context: &WatchContext, cluster: &Cluster) -> Store<CachedObject<K>>
where
    K: Summarize
        + Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    reflect_as(
        tasks,
        context,
        namespaced(cluster),
        (),
        CachedObject::new,
        is_change,
        |_| {},
    )
}

/// Whether an object is new or would be observed differently than before.
fn is_change<K: Summarize>(before: Option<&CachedObject<K>>, now: &CachedObject<K>) -> bool {
    before.is_none_or(|before| before.differs_from(now))
}

/// The claims of home volumes. They name no sandbox, so the whole project is requeued. A new claim is our own and
/// requeues nothing.
fn claims(
    tasks: &mut JoinSet<()>,
    context: &WatchContext,
    cluster: &Cluster,
) -> Store<CachedObject<PersistentVolumeClaim>> {
    let is_change = |before: Option<&CachedObject<_>>, now: &CachedObject<_>| {
        before.is_some_and(|before| before.differs_from(now))
    };
    reflect_as(
        tasks,
        context,
        namespaced(cluster),
        (),
        CachedObject::new,
        is_change,
        |_| {},
    )
}

/// The pods. Their status also shows when a container was killed for its memory, which becomes a warning.
fn pods(tasks: &mut JoinSet<()>, context: &WatchContext, cluster: &Cluster, warnings: &Warnings) -> Pods {
    let warnings = warnings.clone();
    let names = PodNames::default();
    let indexed = names.clone();
    // The spec is not used here, and takes more memory than the status.
    let reduce = |mut pod: Pod| {
        pod.managed_fields_mut().clear();
        pod.spec = None;
        pod
    };
    let on_event = move |event: &Event<Pod>| {
        indexed.update(event);
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => {
                if let Some(warning) = event_diagnosis::out_of_memory(pod) {
                    warnings.record(pod, warning);
                }
            }
            Event::Delete(pod) => warnings.remove(pod),
            Event::Init | Event::InitDone => {}
        }
    };
    let store = reflect_as(
        tasks,
        context,
        namespaced(cluster),
        (),
        reduce,
        |_, _| true,
        on_event,
    );
    Pods::new(store, names)
}

/// Requeues as a stream. A subscriber that fell behind gets [`Requeue::Everything`].
#[must_use]
pub fn requeue_stream(requeues: broadcast::Receiver<Requeue>) -> BoxStream<Requeue> {
    stream::unfold(requeues, |mut requeues| async move {
        match requeues.recv().await {
            Ok(requeue) => Some((requeue, requeues)),
            Err(RecvError::Lagged(_)) => Some((Requeue::Everything, requeues)),
            Err(RecvError::Closed) => None,
        }
    })
    .boxed()
}

/// Sends [`Requeue::Recovered`] when the API server answers again after a watch failed. The watch itself does not show
/// it: a resumed watch is silent until an object changes.
async fn notify_when_reachable(client: Client, context: WatchContext) {
    loop {
        context.disconnected.notified().await;
        for pause in WatchBackoff::default() {
            tokio::time::sleep(pause).await;
            // An error response is an answer too.
            let answer = tokio::time::timeout(CALL_TIMEOUT, client.apiserver_version()).await;
            if matches!(answer, Ok(Ok(_) | Err(kube::Error::Api(_)))) {
                break;
            }
        }
        let _ = context.requeues.send(Requeue::Recovered);
    }
}

/// Watches a kind, into a store of whole objects.
pub fn reflect<K>(
    tasks: &mut JoinSet<()>,
    context: &WatchContext,
    api: Api<K>,
    kind: K::DynamicType,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Eq + std::hash::Hash + Send + Sync + Unpin,
{
    // managedFields are not used here, and take more memory than the rest of the object.
    let reduce = |mut object: K| {
        object.managed_fields_mut().clear();
        object
    };
    reflect_as(tasks, context, api, kind, reduce, |_, _| true, |_| {})
}

/// Watches a kind, into a store of what `reduce` makes of each object. The owner of an object is requeued when the
/// object is deleted, and when `is_change` holds for its cached and its new value. `on_event` is called for each event,
/// once the store has it.
fn reflect_as<K, S>(
    tasks: &mut JoinSet<()>,
    context: &WatchContext,
    api: Api<K>,
    kind: S::DynamicType,
    reduce: impl Fn(K) -> S + Send + 'static,
    is_change: impl Fn(Option<&S>, &S) -> bool + Send + 'static,
    on_event: impl Fn(&Event<S>) + Send + 'static,
) -> Store<S>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    S: Resource + Clone + Debug + Send + Sync + 'static,
    S::DynamicType: Clone + Debug + Eq + std::hash::Hash + Send + Sync + Unpin,
{
    let mut writer = Writer::<S>::new(kind.clone());
    let store = writer.as_reader();
    let config = watcher::Config::default().labels(&context.labels);
    let mut events = Box::pin(watcher::watcher(api, config).backoff(WatchBackoff::default()));
    let (context, cached) = (context.clone(), store.clone());
    tasks.spawn(async move {
        let mut listed_before = false;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => cached_object::map_event(event, &reduce),
                Err(error) => {
                    tracing::warn!(%error, "watch of the cluster failed; restarting it");
                    context.last_error.send_replace(Some(error.to_string()));
                    context.disconnected.notify_one();
                    continue;
                }
            };
            let changed = match &event {
                Event::Apply(object) => {
                    let before = cached.get(&ObjectRef::from_obj_with(object, kind.clone()));
                    is_change(before.as_deref(), object)
                }
                _ => true,
            };
            writer.apply_watcher_event(&event);
            on_event(&event);
            match event {
                Event::Apply(object) | Event::Delete(object) => {
                    // Always: a task may wait for this resourceVersion, although nothing else has changed.
                    context.project_notify.notify(objects::project(object.meta()));
                    if changed {
                        context.requeue(object.meta());
                    }
                }
                Event::InitDone => {
                    // A repeated list does not show which changes were missed before it.
                    if listed_before {
                        let _ = context.requeues.send(Requeue::Everything);
                    }
                    listed_before = true;
                    context.last_error.send_replace(None);
                    context.project_notify.notify(None);
                }
                Event::Init | Event::InitApply(_) => {}
            }
        }
    });
    store
}
