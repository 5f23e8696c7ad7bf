#!/usr/bin/env bash
# stop.sh DIR PART: stops one part of the cluster (etcd, apiserver, controller-manager, scheduler, containerd, kubelet,
# proxy and those that were added), and returns when it has ended.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
[ $# -eq 2 ] || die "usage: stop.sh DIR PART"
need_up
[ -x "$DIR/parts/$2" ] || die "there is no part $2; there are $(cd "$DIR/parts" && echo *)"
stop_part "$2"
