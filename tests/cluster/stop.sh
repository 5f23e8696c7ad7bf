#!/usr/bin/env bash
# stop.sh DIR PART [now]: stops one part of the cluster (etcd, apiserver, controller-manager, scheduler, containerd, kubelet,
# proxy and those that were added), and returns when it has ended. With `now` it is
# killed at once, else it has 10 seconds.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
[ $# -eq 2 ] || [ "${3:-}" = now ] || die "usage: stop.sh DIR PART [now]"
need_up
[ -x "$DIR/parts/$2" ] || die "no part is named $2; the parts are $(cd "$DIR/parts" && echo *)"
if [ $# -eq 3 ]; then
    "$OWN/warden" control "$DIR" kill "$2"
else
    stop_part "$2"
fi
