package main

// Stand-in for KubeBlocks' operator: brings Cluster objects of engine postgresql to Running with a real
// PostgreSQL, and makes the secrets, services and labels that the published versions make. The API versions that it
// serves are those of the CRD that tests/cluster/kubeblocks.sh applied.

import (
	"context"
	"flag"
	"fmt"
	"log"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	kubeblocksGroup = "apps.kubeblocks.io"
	clusterFinalize = "cluster.kubeblocks.io/finalizer"
	instanceLabel   = "app.kubernetes.io/instance"
	managedLabel    = "app.kubernetes.io/managed-by"
)

type operator struct {
	client   kubernetes.Interface
	clusters dynamic.NamespaceableResourceInterface
	version  string
	image    string
}

func runKubeblocks(ctx context.Context, config *rest.Config, flags *flag.FlagSet, args []string) error {
	version := flags.String("api", "v1", "the version whose contract is followed: v1 or v1alpha1")
	image := flags.String("image", "", "the image that has PostgreSQL's server")
	_ = flags.Parse(args)
	if *version != "v1" && *version != "v1alpha1" {
		return fmt.Errorf("--api is to be v1 or v1alpha1 and is %q", *version)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	anything, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	resource := schema.GroupVersionResource{Group: kubeblocksGroup, Version: *version, Resource: "clusters"}
	o := &operator{client: client, clusters: anything.Resource(resource), version: *version, image: *image}

	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](50*time.Millisecond, 5*time.Second))
	dynamics := dynamicinformer.NewDynamicSharedInformerFactory(anything, time.Minute)
	clusters := dynamics.ForResource(resource)
	enqueue := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if m, ok := object.(meta.Object); ok {
			queue.Add(cache.ObjectName{Namespace: m.GetNamespace(), Name: m.GetName()})
		}
	}
	enqueueOwner := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if m, ok := object.(meta.Object); ok && m.GetLabels()[managedLabel] == "kubeblocks" {
			queue.Add(cache.ObjectName{Namespace: m.GetNamespace(), Name: m.GetLabels()[instanceLabel]})
		}
	}
	handler := func(f func(any)) cache.ResourceEventHandlerFuncs {
		return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, n any) { f(n) }, DeleteFunc: f}
	}
	owned := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *meta.ListOptions) {
		o.LabelSelector = managedLabel + "=kubeblocks"
	}))
	_, _ = clusters.Informer().AddEventHandler(handler(enqueue))
	for _, informer := range []cache.SharedIndexInformer{
		owned.Apps().V1().StatefulSets().Informer(), owned.Core().V1().Pods().Informer(),
		owned.Core().V1().Secrets().Informer(), owned.Core().V1().Services().Informer(),
	} {
		_, _ = informer.AddEventHandler(handler(enqueueOwner))
	}
	dynamics.Start(ctx.Done())
	owned.Start(ctx.Done())
	dynamics.WaitForCacheSync(ctx.Done())
	owned.WaitForCacheSync(ctx.Done())
	log.Printf("the operator follows %s/%s", kubeblocksGroup, *version)
	go func() { <-ctx.Done(); queue.ShutDown() }()
	for {
		key, shut := queue.Get()
		if shut {
			return nil
		}
		if err := o.reconcile(ctx, key); err != nil && ctx.Err() == nil {
			log.Printf("%v: %v; trying again", key, err)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func (o *operator) reconcile(ctx context.Context, key cache.ObjectName) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	object, err := o.clusters.Namespace(key.Namespace).Get(ctx, key.Name, meta.GetOptions{})
	if errors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	requested, understood := readCluster(object, o.version)
	if !understood {
		return nil // like the original: accepted by the API and never acted on
	}
	if object.GetDeletionTimestamp() != nil {
		return o.finish(ctx, object, requested)
	}
	if !hasFinalizer(object) {
		object.SetFinalizers(append(object.GetFinalizers(), clusterFinalize))
		if object, err = o.clusters.Namespace(key.Namespace).Update(ctx, object, meta.UpdateOptions{}); err != nil {
			return err
		}
	}
	if phaseOf(object) == "" {
		if object, err = o.setPhase(ctx, object, "Creating"); err != nil {
			return err
		}
	}
	set, err := o.ensure(ctx, requested)
	if err != nil {
		return err
	}
	return o.report(ctx, object, requested, set)
}

func (o *operator) report(ctx context.Context, object *unstructured.Unstructured, requested *requestedCluster, set *apps.StatefulSet) error {
	phase := phaseOf(object)
	ready := set.Status.ObservedGeneration == set.Generation && set.Status.ReadyReplicas == requested.replicas
	next := phase
	switch {
	case requested.stopped && set.Status.Replicas == 0:
		next = "Stopped"
	case requested.stopped:
		next = "Stopping"
	case ready:
		next = "Running"
	case phase == "Running":
		next = "Updating"
	case phase == "Stopped" || phase == "Stopping":
		next = "Updating"
	}
	if next == phase {
		return nil
	}
	log.Printf("%s/%s is %s", requested.namespace, requested.name, next)
	_, err := o.setPhase(ctx, object, next)
	return err
}

func (o *operator) setPhase(ctx context.Context, object *unstructured.Unstructured, phase string) (*unstructured.Unstructured, error) {
	object = object.DeepCopy()
	_ = unstructured.SetNestedField(object.Object, phase, "status", "phase")
	_ = unstructured.SetNestedField(object.Object, object.GetGeneration(), "status", "observedGeneration")
	_ = unstructured.SetNestedField(object.Object, map[string]any{"postgresql": map[string]any{"phase": phase}}, "status", "components")
	return o.clusters.Namespace(object.GetNamespace()).UpdateStatus(ctx, object, meta.UpdateOptions{})
}

// A Cluster stays until what was made for it is gone, as with the real operator, which takes its parts away before
// its finalizer: another Cluster of the same name never meets the servers of the one before. The end of each part is an
// event, which triggers this again.
func (o *operator) finish(ctx context.Context, object *unstructured.Unstructured, requested *requestedCluster) error {
	if !hasFinalizer(object) {
		return nil
	}
	if requested.termination == "DoNotTerminate" {
		log.Printf("%s/%s is not to be terminated: its deletion waits", requested.namespace, requested.name)
		return nil
	}
	its := meta.ListOptions{LabelSelector: instanceLabel + "=" + requested.name + "," + managedLabel + "=kubeblocks"}
	sets, pods := o.client.AppsV1().StatefulSets(requested.namespace), o.client.CoreV1().Pods(requested.namespace)
	services := o.client.CoreV1().Services(requested.namespace)
	found, err := services.List(ctx, its)
	if err != nil {
		return err
	}
	for _, service := range found.Items {
		if err := services.Delete(ctx, service.Name, meta.DeleteOptions{}); err != nil && !errors.IsNotFound(err) {
			return err
		}
	}
	if err := o.client.CoreV1().Secrets(requested.namespace).DeleteCollection(ctx, meta.DeleteOptions{}, its); err != nil {
		return err
	}
	// The set before its pods, which it would make again.
	if err := sets.DeleteCollection(ctx, meta.DeleteOptions{}, its); err != nil {
		return err
	}
	if err := pods.DeleteCollection(ctx, meta.DeleteOptions{}, its); err != nil {
		return err
	}
	leftSets, err := sets.List(ctx, its)
	if err != nil {
		return err
	}
	leftPods, err := pods.List(ctx, its)
	if err != nil || len(leftSets.Items)+len(leftPods.Items) > 0 {
		return err
	}
	if requested.termination == "Delete" || requested.termination == "WipeOut" {
		claims := o.client.CoreV1().PersistentVolumeClaims(requested.namespace)
		if err := claims.DeleteCollection(ctx, meta.DeleteOptions{}, its); err != nil {
			return err
		}
	}
	var left []string
	for _, f := range object.GetFinalizers() {
		if f != clusterFinalize {
			left = append(left, f)
		}
	}
	object.SetFinalizers(left)
	_, err = o.clusters.Namespace(requested.namespace).Update(ctx, object, meta.UpdateOptions{})
	if err == nil {
		log.Printf("%s/%s is gone", requested.namespace, requested.name)
	}
	return err
}

func hasFinalizer(object *unstructured.Unstructured) bool {
	for _, f := range object.GetFinalizers() {
		if f == clusterFinalize {
			return true
		}
	}
	return false
}

func phaseOf(object *unstructured.Unstructured) string {
	phase, _, _ := unstructured.NestedString(object.Object, "status", "phase")
	return phase
}

// ensure makes what is missing and leaves what is there, except for the number of replicas.
func (o *operator) ensure(ctx context.Context, requested *requestedCluster) (*apps.StatefulSet, error) {
	password, err := newPassword()
	if err != nil {
		return nil, err
	}
	account, err := o.ensureSecret(ctx, requested.accountSecret(o.version, password))
	if err != nil {
		return nil, err
	}
	for _, service := range requested.services(o.version) {
		_, err := o.client.CoreV1().Services(requested.namespace).Create(ctx, service, meta.CreateOptions{})
		if err != nil && !errors.IsAlreadyExists(err) {
			return nil, err
		}
	}
	sets := o.client.AppsV1().StatefulSets(requested.namespace)
	set, err := sets.Get(ctx, requested.component(), meta.GetOptions{})
	if errors.IsNotFound(err) {
		return sets.Create(ctx, requested.statefulSet(o.image, account.Name), meta.CreateOptions{})
	}
	if err != nil {
		return nil, err
	}
	if set.Spec.Replicas == nil || *set.Spec.Replicas != requested.servers() {
		servers := requested.servers()
		set.Spec.Replicas = &servers
		return sets.Update(ctx, set, meta.UpdateOptions{})
	}
	return set, nil
}

func (o *operator) ensureSecret(ctx context.Context, secret *core.Secret) (*core.Secret, error) {
	made, err := o.client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, meta.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return o.client.CoreV1().Secrets(secret.Namespace).Get(ctx, secret.Name, meta.GetOptions{})
	}
	return made, err
}
