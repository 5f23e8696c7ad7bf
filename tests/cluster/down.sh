#!/usr/bin/env bash
# down.sh DIR: ends the cluster in DIR and removes DIR, then checks that nothing of it is left on the machine.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
[ -d "$DIR" ] || exit 0
pid_of() { [ ! -e "$DIR/$1" ] || cat "$DIR/$1"; }
# A recorded number may be another process by now, so its command line must be that of this cluster's warden.
ours() { [ -n "$1" ] && [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF "$2 $DIR"; }
warden=$(pid_of warden.pid) init=$(pid_of init.pid)
if ours "$warden" run; then
    say "ending the cluster in $DIR"
    kill -TERM "$warden"
    timeout 300 tail --pid="$warden" -f /dev/null || die "the warden (process $warden) did not end in 300 s; see $DIR/logs/warden.log"
fi
if ours "$init" inner; then
    kill -KILL "$init"
    timeout 120 tail --pid="$init" -f /dev/null || die "the first process of the cluster ($init) did not end in 120 s"
fi

if [ -e "$DIR/slot" ]; then
    slot=$(cat "$DIR/slot")
    # Left only by a warden that was killed: otherwise it removes these itself.
    for hierarchy in /sys/fs/cgroup "/sys/fs/cgroup"/*; do
        [ ! -d "$hierarchy/fsa-cluster-$slot" ] || find "$hierarchy/fsa-cluster-$slot" -depth -type d -exec rmdir {} +
    done
    ip link delete "fsacluster$slot" 2>/dev/null || true
    left=$(ip -o link show "fsacluster$slot" 2>/dev/null || true)
    [ -z "$left" ] || die "the network link of the cluster is still there: $left"
fi
left=$(cut -d ' ' -f 5 /proc/self/mountinfo | grep -F "$DIR/" || true)
[ -z "$left" ] || die "these mounts of the cluster are still there: $left"
rm -rf "$DIR"
