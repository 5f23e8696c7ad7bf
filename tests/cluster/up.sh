#!/usr/bin/env bash
# up.sh DIR: starts a Kubernetes cluster of one node with all of its state below DIR, or finds it running. Leaves
# DIR/kubeconfig and DIR/env. Needs root. tests/cluster/README.md says what the cluster is.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/parts.sh
. "$HERE/parts.sh"

cluster_dir "$@"
[ "$(id -u)" -eq 0 ] || die "the test cluster makes namespaces, mounts and a network: run this as root"
"$HERE/build.sh"
programs
mkdir -p "$DIR"
exec 9>"$DIR/lock"
flock -w 300 9 || die "another up.sh has worked on $DIR for 5 minutes"
if is_up && [ -e "$DIR/env" ]; then
    say "the cluster in $DIR is up"
    exit 0
fi
# End what an interrupted run left: its addresses and credentials differ.
"$HERE/down.sh" "$DIR" 9>&-
mkdir -p "$DIR/logs"

say "starting a cluster in $DIR"
# In its own session, so that neither a closed terminal nor a killed test ends it halfway; FSA_TEST_OWNER ends it.
exec 7< <(exec setsid "$OWN/warden" run "$DIR" 2>>"$DIR/logs/warden.log" 8>&- 9>&-)
read -r -t 30 -u 7 line || line=
exec 7<&-
[ "$line" = ready ] || {
    tail -n 5 "$DIR/logs/warden.log" >&2
    die "the cluster's namespaces could not be created"
}
addresses "$(cat "$DIR/slot")"
# The cgroup that pods go to. On v1 the cpuset of a new group is empty and takes no process until it is filled.
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    mkdir -p "$hierarchy/$CGROUP"
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$hierarchy/$CGROUP/$file" ] || [ -e "$hierarchy/cgroup.controllers" ] || cat "$hierarchy/$file" >"$hierarchy/$CGROUP/$file"
    done
done
printf "KUBERNETES='%s'\nOWN='%s'\n" "$KUBERNETES" "$OWN" >"$DIR/programs"
make_credentials
write_parts
# kubectl's discovery cache lives with the cluster: in the home folder it would outlive it.
printf '#!/bin/sh\nexec "%s" --kubeconfig "%s" --cache-dir "%s" "$@"\n' "$KUBERNETES/kubectl" "$DIR/kubeconfig" "$DIR/run/api" >"$DIR/kubectl"
chmod 755 "$DIR/kubectl"

answers() { curl --silent --fail --max-time 20 --cacert "$DIR/pki/ca.crt" -H "Authorization: Bearer $(head -n 1 "$DIR/pki/tokens.csv" | cut -d , -f 1)" "https://$NODE_ADDRESS:6443$1"; }
start_part etcd
start_part containerd
start_part apiserver
within 300 "containerd's answer" ctr --address "$DIR/run/containerd.sock" --timeout 20s version
imports=()
for image in pause coredns tools postgres; do
    "$HERE/image.sh" "$DIR" "$IMAGES/$image.tar" "fsa.test/$image:1" &
    imports+=($!)
done
within 300 "the API server's readiness" answers /readyz
for name in controller-manager scheduler provisioner policy; do
    start_part "$name"
done
for import in "${imports[@]}"; do
    wait "$import" || die "an image could not be imported; see $DIR/logs/containerd.log"
done
start_part kubelet
say "the API server answers"
sed -e "s/@DNS_ADDRESS@/$DNS_ADDRESS/" -e "s/@OUTSIDE_ADDRESS@/$OUTSIDE_ADDRESS/" "$HERE/manifests/base.yaml" |
    kubectl apply --server-side -f - >/dev/null
within 300 "the node's entry" kubectl get node "$NODE"
start_part proxy # it reads the node's entry only once
kubectl wait --for=condition=Ready --timeout=300s "node/$NODE" --request-timeout 0 >&2
kubectl -n kube-system rollout status deployment/coredns --timeout=300s --request-timeout 0 >&2

cat >"$DIR/env.part" <<END
export FSA_TEST_CLUSTER='$DIR'
export FSA_TEST_KUBECONFIG='$DIR/kubeconfig'
export FSA_TEST_KUBECTL='$DIR/kubectl'
export FSA_TEST_HELM='$HELM/helm'
export FSA_TEST_NODE=$NODE
export FSA_TEST_NODE_ADDRESS=$NODE_ADDRESS
export FSA_TEST_MACHINE_ADDRESS=$MACHINE_ADDRESS
export FSA_TEST_OUTSIDE_ADDRESS=$OUTSIDE_ADDRESS
export FSA_TEST_DNS_ADDRESS=$DNS_ADDRESS
export FSA_TEST_PODS=$PODS
export FSA_TEST_SERVICES=$SERVICES
export FSA_TEST_CONTAINERD='$DIR/run/containerd.sock'
END
mv "$DIR/env.part" "$DIR/env"
say "the cluster is ready: export KUBECONFIG=$DIR/kubeconfig"
