package main

// Volume provisioner: makes a `local` volume for each claim of its storage classes once the scheduler has chosen a
// node, and removes it when the claim is gone. `local`, not `hostPath`: then kubelet gives the folder to the pod's
// fsGroup as it does for real block volumes. Sizes are recorded and not enforced.

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	provisionerName = "fsa.test/local"
	selectedNode    = "volume.kubernetes.io/selected-node"
	provisionedBy   = "pv.kubernetes.io/provisioned-by"
)

type provisioner struct {
	client       kubernetes.Interface
	node, folder string
}

func runProvisioner(ctx context.Context, config *rest.Config, flags *flag.FlagSet, args []string) error {
	node := flags.String("node", "", "the real node, whose volumes are folders")
	folder := flags.String("folder", "", "where these folders are")
	_ = flags.Parse(args)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	p := &provisioner{client: client, node: *node, folder: *folder}
	factory := informers.NewSharedInformerFactory(client, 10*time.Minute)
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[any]())
	handle := func(object any) { queue.Add(object) }
	claims := factory.Core().V1().PersistentVolumeClaims()
	volumes := factory.Core().V1().PersistentVolumes()
	classes := factory.Storage().V1().StorageClasses()
	type claimKey struct{ namespace, name string }
	type volumeKey struct{ name string }
	toClaim := func(object any) {
		c := object.(*core.PersistentVolumeClaim)
		handle(claimKey{c.Namespace, c.Name})
	}
	toVolume := func(object any) { handle(volumeKey{object.(*core.PersistentVolume).Name}) }
	_, _ = claims.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: toClaim, UpdateFunc: func(_, o any) { toClaim(o) }})
	_, _ = volumes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: toVolume, UpdateFunc: func(_, o any) { toVolume(o) }})
	classes.Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	log.Print("the provisioner is ready")
	go func() { <-ctx.Done(); queue.ShutDown() }()
	for {
		key, shut := queue.Get()
		if shut {
			return nil
		}
		var err error
		switch k := key.(type) {
		case claimKey:
			var claim *core.PersistentVolumeClaim
			if claim, err = claims.Lister().PersistentVolumeClaims(k.namespace).Get(k.name); err == nil && claim.Spec.StorageClassName != nil {
				var class *storage.StorageClass
				if class, err = classes.Lister().Get(*claim.Spec.StorageClassName); err == nil {
					err = p.provide(ctx, claim, class)
				}
			}
		case volumeKey:
			var volume *core.PersistentVolume
			if volume, err = volumes.Lister().Get(k.name); err == nil {
				err = p.reclaim(ctx, volume)
			}
		}
		if err != nil && !errors.IsNotFound(err) && ctx.Err() == nil {
			log.Printf("%v: %v; trying again", key, err)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func (p *provisioner) provide(ctx context.Context, claim *core.PersistentVolumeClaim, class *storage.StorageClass) error {
	if class.Provisioner != provisionerName || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return nil
	}
	node := claim.Annotations[selectedNode]
	if node == "" {
		if class.VolumeBindingMode == nil || *class.VolumeBindingMode == storage.VolumeBindingWaitForFirstConsumer {
			return nil // the scheduler comes first
		}
		node = p.node
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.folder, name)
	if node == p.node { // a simulated node has no folders
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	reclaim := core.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		reclaim = *class.ReclaimPolicy
	}
	mode := core.PersistentVolumeFilesystem
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: reclaim,
			StorageClassName:              class.Name,
			VolumeMode:                    &mode,
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
				MatchExpressions: []core.NodeSelectorRequirement{{
					Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node},
				}},
			}}}},
		},
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		log.Printf("made %s for %s/%s on %s", name, claim.Namespace, claim.Name, node)
	}
	return err
}

func (p *provisioner) reclaim(ctx context.Context, volume *core.PersistentVolume) error {
	if volume.Annotations[provisionedBy] != provisionerName || volume.Spec.Local == nil ||
		volume.Status.Phase != core.VolumeReleased || volume.Spec.PersistentVolumeReclaimPolicy != core.PersistentVolumeReclaimDelete {
		return nil
	}
	// The name is ours to choose, but the object is not: remove only what lies directly in our folder.
	if filepath.Dir(volume.Spec.Local.Path) != p.folder {
		return fmt.Errorf("the volume's folder %s is not one of ours", volume.Spec.Local.Path)
	}
	if err := os.RemoveAll(volume.Spec.Local.Path); err != nil {
		return err
	}
	log.Printf("removed %s", volume.Name)
	return p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
}
