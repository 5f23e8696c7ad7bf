#!/usr/bin/env bash
# gateway.sh DIR: installs the Gateway API's definitions (GatewayClass, Gateway, HTTPRoute, ReferenceGrant; standard
# channel), as they are published. Nothing serves them: a route is checked by the API server and leads nowhere.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
need_up
kubectl apply --server-side --force-conflicts -f "$GATEWAY/crds.yaml" >&2
kubectl wait --for=condition=Established --timeout=300s -f "$GATEWAY/crds.yaml" >&2
rm -rf "$DIR/run/api" # kubectl's discovery cache
