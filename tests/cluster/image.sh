#!/usr/bin/env bash
# image.sh DIR ARCHIVE REF: imports an OCI archive into the cluster's containerd under the name REF. A pod that
# uses it says imagePullPolicy: IfNotPresent or Never, since nothing can be pulled.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
[ $# -eq 3 ] || die "usage: image.sh DIR ARCHIVE REF"
need_up
case ${3%%/*} in *.* | *:* | localhost) name=$3 ;; *) name=docker.io/$3 ;; esac
case ${name##*/} in *:* | *@*) ;; *) name=$name:latest ;; esac
# containerd takes the index of one archive at a time.
exec 9>"$DIR/run/import.lock"
flock -w 300 9 || die "another import has gone on for 5 minutes"
timeout 300 ctr --address "$DIR/run/containerd.sock" -n k8s.io images import --index-name "$name" "$2" >/dev/null
