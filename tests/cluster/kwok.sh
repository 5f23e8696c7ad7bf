#!/usr/bin/env bash
# kwok.sh DIR start N: simulated nodes with room for N pods beside the real node. kwok.sh DIR stop: removes them.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
need_up
per_node=110 # kubelet's default

nodes() {
    local i
    for ((i = 1; i <= $1; i++)); do
        cat <<END
---
apiVersion: v1
kind: Node
metadata:
  name: kwok-$i
  labels: {type: kwok, kubernetes.io/hostname: kwok-$i, kubernetes.io/os: linux, kubernetes.io/arch: $(dpkg --print-architecture)}
  annotations: {kwok.x-k8s.io/node: fake, node.alpha.kubernetes.io/ttl: "0"}
spec:
  taints: [{key: kwok.x-k8s.io/node, value: fake, effect: NoSchedule}]
status:
  allocatable: {cpu: "64", memory: 256Gi, pods: "$per_node"}
  capacity: {cpu: "64", memory: 256Gi, pods: "$per_node"}
END
    done
}

case ${2:-} in
start)
    [[ ${3:-} =~ ^[1-9][0-9]*$ ]] || die "usage: kwok.sh DIR start N"
    "$HERE/build.sh" kwok
    count=$((($3 + per_node - 1) / per_node))
    # A node's pods take a /24 of the cluster's /16, and the real node has one too.
    [ $count -le 250 ] || die "$3 pods are more than the cluster has addresses for; at most $((250 * per_node))"
    part kwok <<END
exec '$KWOK/kwok' --kubeconfig '$DIR/kubeconfigs/admin' --manage-all-nodes=false \\
    --config '$KWOK/stages.yaml' --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake --node-lease-duration-seconds 60 \\
    --server-address 127.0.0.1:10247
END
    start_part kwok
    nodes "$count" | kubectl apply --server-side -f - >&2
    kubectl wait --for=condition=Ready --timeout=300s --request-timeout 0 node -l type=kwok >&2
    # The addresses of their pods come from these, and are answered for by one server.
    kubectl wait --for=jsonpath='{.spec.podCIDR}' --timeout=300s --request-timeout 0 node -l type=kwok >&2
    pods=$(kubectl get node -l type=kwok -o 'jsonpath={.items[*].spec.podCIDR}')
    part sandboxes <<END
exec '$OWN/standin' sandboxes '$DIR/kubeconfigs/admin' $pods
END
    start_part sandboxes
    ;;
stop)
    kubectl delete node -l type=kwok >&2
    stop_part sandboxes
    stop_part kwok
    ;;
*) die "usage: kwok.sh DIR start N, or kwok.sh DIR stop" ;;
esac
