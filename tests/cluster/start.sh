#!/usr/bin/env bash
# start.sh DIR PART: starts one part of the cluster (etcd, apiserver, controller-manager, scheduler, containerd, kubelet,
# proxy and those that were added), and returns when it runs and, where it has a health check, is healthy.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
[ $# -eq 2 ] || die "usage: start.sh DIR PART"
need_up
[ -x "$DIR/parts/$2" ] || die "no part is named $2; the parts are $(cd "$DIR/parts" && echo *)"
start_part "$2"
case $2 in
apiserver) within 300 "the API server's readiness" kubectl get --raw /readyz ;;
kubelet) within 300 "kubelet's health" inside curl --silent --fail --max-time 20 http://127.0.0.1:10248/healthz ;;
etcd) within 300 "etcd's health" inside curl --silent --fail --max-time 20 http://127.0.0.1:2379/health ;;
containerd) within 300 "containerd's answer" ctr --address "$DIR/run/containerd.sock" --timeout 20s version ;;
esac
