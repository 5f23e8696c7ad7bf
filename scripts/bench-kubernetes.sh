#!/usr/bin/env bash
# bench-kubernetes.sh [COUNT]: measures the release build against a real API server, also with COUNT (1000) sandboxes on
# simulated nodes, and writes the result to docs/benchmarks.md. Needs a quiet machine.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image cluster
scripts/build.sh
scripts/build-image.sh sandboxd
use_build release
folder=$(mktemp -d /tmp/fsa-bench.XXXXXX)
cluster=$folder/cluster
trap '[ ! -d "$cluster" ] || tests/cluster/down.sh "$cluster" || true; rm -rf "$folder"' EXIT
FSA_TEST_OWNER=$$ tests/cluster/up.sh "$cluster"
# shellcheck disable=SC1091
. "$cluster/env"
tests/cluster/image.sh "$cluster" "$FSA_CACHE/images/sandboxd.oci.tar" fsa.test/sandboxd:1
tests/cluster/kwok.sh "$cluster" start 1500
cargo run --locked --release --package fsa-bench -- kubernetes "$@"
