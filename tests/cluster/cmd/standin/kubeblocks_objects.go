package main

// Objects that each version creates for one Cluster, without side effects.

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type requestedCluster struct {
	namespace, name   string
	componentName     string
	termination       string
	replicas          int32
	stopped           bool
	storage           resource.Quantity
	storageClass      *string
	owner             meta.OwnerReference
	clusterDefinition string
}

// readCluster returns false where the real operator of that version does nothing: 1.x leaves clusters of
// clusterDefinitionRef alone, 0.x knows nothing of clusterDef.
func readCluster(object *unstructured.Unstructured, version string) (*requestedCluster, bool) {
	spec, _, _ := unstructured.NestedMap(object.Object, "spec")
	text := func(in map[string]any, name string) string { s, _ := in[name].(string); return s }
	definition := text(spec, "clusterDef")
	if version == "v1alpha1" {
		definition = text(spec, "clusterDefinitionRef")
	}
	components, _, _ := unstructured.NestedSlice(spec, "componentSpecs")
	if definition != "postgresql" || len(components) == 0 {
		return nil, false
	}
	component, _ := components[0].(map[string]any)
	w := &requestedCluster{
		namespace: object.GetNamespace(), name: object.GetName(), componentName: text(component, "name"),
		termination: text(spec, "terminationPolicy"), replicas: 1, storage: resource.MustParse("1Gi"), clusterDefinition: definition,
	}
	if n, ok := component["replicas"].(int64); ok {
		w.replicas = int32(min(n, 1)) // one server, whatever the number requested
	}
	w.stopped, _ = component["stop"].(bool)
	if templates, _, _ := unstructured.NestedSlice(component, "volumeClaimTemplates"); len(templates) > 0 {
		template, _ := templates[0].(map[string]any)
		if size, _, _ := unstructured.NestedString(template, "spec", "resources", "requests", "storage"); size != "" {
			if parsed, err := resource.ParseQuantity(size); err == nil {
				w.storage = parsed
			}
		}
		if class, _, _ := unstructured.NestedString(template, "spec", "storageClassName"); class != "" {
			w.storageClass = &class
		}
	}
	yes := true
	w.owner = meta.OwnerReference{
		APIVersion: object.GetAPIVersion(), Kind: "Cluster", Name: object.GetName(), UID: object.GetUID(),
		Controller: &yes, BlockOwnerDeletion: &yes,
	}
	return w, true
}

func (w *requestedCluster) servers() int32 {
	if w.stopped {
		return 0
	}
	return w.replicas
}

func (w *requestedCluster) component() string { return w.name + "-" + w.componentName }

func (w *requestedCluster) labels() map[string]string {
	return map[string]string{
		instanceLabel: w.name, managedLabel: "kubeblocks", "app.kubernetes.io/name": w.clusterDefinition,
		"apps.kubeblocks.io/component-name":      w.componentName,
		"apps.kubeblocks.postgres.patroni/scope": w.component(),
		"apps.kubeblocks.postgres.patroni/role":  "primary",
		"kubeblocks.io/role":                     "primary",
		"clusterdefinition.kubeblocks.io/name":   w.clusterDefinition,
	}
}

func (w *requestedCluster) meta(name string) meta.ObjectMeta {
	return meta.ObjectMeta{Namespace: w.namespace, Name: name, Labels: w.labels(), OwnerReferences: []meta.OwnerReference{w.owner}}
}

// The host of the contract. The chart's service appends the engine's name once more, so it is there twice.
func (w *requestedCluster) host() string { return w.component() + "-postgresql" }

// v1alpha1 has one secret of the cluster with everything in it; v1 has one per account, with name and password alone.
func (w *requestedCluster) accountSecret(version, password string) *core.Secret {
	data := map[string]string{"username": "postgres", "password": password}
	name := strings.ReplaceAll(fmt.Sprintf("%s-account-%s", w.component(), "postgres"), "_", "-")
	if version == "v1alpha1" {
		name = w.name + "-conn-credential"
		data["host"] = w.component() + "." + w.namespace + ".svc"
		data["port"] = "5432"
		data["endpoint"] = data["host"] + ":5432"
	}
	return &core.Secret{ObjectMeta: w.meta(name), Type: core.SecretTypeOpaque, StringData: data}
}

func (w *requestedCluster) services(version string) []*core.Service {
	name := w.host()
	if version == "v1alpha1" {
		name = w.component()
	}
	ports := []core.ServicePort{{Name: "tcp-postgresql", Port: 5432, TargetPort: intstr.FromString("tcp-postgresql")}}
	selector := map[string]string{instanceLabel: w.name, "apps.kubeblocks.io/component-name": w.componentName, managedLabel: "kubeblocks"}
	headless := w.meta(w.component() + "-headless")
	return []*core.Service{
		{ObjectMeta: w.meta(name), Spec: core.ServiceSpec{Selector: selector, Ports: ports}},
		{ObjectMeta: headless, Spec: core.ServiceSpec{Selector: selector, Ports: ports, ClusterIP: core.ClusterIPNone}},
	}
}

// Kept small, since a test has several; asynchronous commit is not chosen, since tests kill servers.
const serverScript = `set -eu
data=/home/postgres/pgdata
if [ ! -s "$data/PG_VERSION" ]; then
    rm -rf "$data.new"
    initdb --pgdata "$data.new" --username "$PGUSER" --pwfile <(printf '%s\n' "$PGPASSWORD") --auth scram-sha-256 --no-sync --encoding UTF8 --locale C
    echo 'host all all all scram-sha-256' >>"$data.new/pg_hba.conf"
    mv "$data.new" "$data"
fi
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp -c shared_buffers=16MB -c max_connections=60 \
    -c dynamic_shared_memory_type=mmap -c jit=off
`

func (w *requestedCluster) statefulSet(image, secret string) *apps.StatefulSet {
	uid, yes, no, servers, grace := int64(999), true, false, w.servers(), int64(10)
	// Not on every mount: with write permission for its group PostgreSQL refuses its folder.
	change := core.FSGroupChangeOnRootMismatch
	from := func(key string) *core.EnvVarSource {
		return &core.EnvVarSource{SecretKeyRef: &core.SecretKeySelector{LocalObjectReference: core.LocalObjectReference{Name: secret}, Key: key}}
	}
	selector := map[string]string{instanceLabel: w.name, "apps.kubeblocks.io/component-name": w.componentName, managedLabel: "kubeblocks"}
	return &apps.StatefulSet{
		ObjectMeta: w.meta(w.component()),
		Spec: apps.StatefulSetSpec{
			Replicas: &servers, ServiceName: w.component() + "-headless", Selector: &meta.LabelSelector{MatchLabels: selector},
			Template: core.PodTemplateSpec{
				ObjectMeta: meta.ObjectMeta{Labels: w.labels()},
				Spec: core.PodSpec{
					TerminationGracePeriodSeconds: &grace,
					AutomountServiceAccountToken:  &no,
					SecurityContext: &core.PodSecurityContext{
						RunAsUser: &uid, RunAsGroup: &uid, FSGroup: &uid, RunAsNonRoot: &yes, FSGroupChangePolicy: &change,
						SeccompProfile: &core.SeccompProfile{Type: core.SeccompProfileTypeRuntimeDefault},
					},
					Containers: []core.Container{{
						Name: "postgresql", Image: image, ImagePullPolicy: core.PullIfNotPresent,
						Command: []string{"bash", "-c", serverScript},
						Env:     []core.EnvVar{{Name: "PGUSER", ValueFrom: from("username")}, {Name: "PGPASSWORD", ValueFrom: from("password")}},
						Ports:   []core.ContainerPort{{Name: "tcp-postgresql", ContainerPort: 5432}},
						ReadinessProbe: &core.Probe{PeriodSeconds: 1, TimeoutSeconds: 5, ProbeHandler: core.ProbeHandler{
							Exec: &core.ExecAction{Command: []string{"pg_isready", "-q", "-h", "127.0.0.1"}},
						}},
						SecurityContext: &core.SecurityContext{
							AllowPrivilegeEscalation: &no, Capabilities: &core.Capabilities{Drop: []core.Capability{"ALL"}},
						},
						VolumeMounts: []core.VolumeMount{{Name: "data", MountPath: "/home/postgres"}},
					}},
				},
			},
			VolumeClaimTemplates: []core.PersistentVolumeClaim{{
				ObjectMeta: meta.ObjectMeta{Name: "data", Labels: w.labels()},
				Spec: core.PersistentVolumeClaimSpec{
					AccessModes: []core.PersistentVolumeAccessMode{core.ReadWriteOnce}, StorageClassName: w.storageClass,
					Resources: core.VolumeResourceRequirements{Requests: core.ResourceList{core.ResourceStorage: w.storage}},
				},
			}},
		},
	}
}

func newPassword() (string, error) {
	bytes := make([]byte, 20)
	if _, err := rand.Read(bytes); err != nil {
		return "", err
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(bytes)), nil
}
