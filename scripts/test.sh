#!/usr/bin/env bash
# test.sh [NEXTEST ARGUMENT...]: makes this machine ready and runs every check: lint, the workspace's tests with
# the real runtime, database, image and cluster, and the scripts scripts/test-*.sh. Its last line is the tests'
# count.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image test cluster browser
scripts/install-tools.sh nextest deny
scripts/lint.sh

say "building what the tests run"
scripts/build-web.sh
build_sandboxd
cargo build --locked --package fsa-cli
scripts/build-image.sh web
scripts/build-image.sh sandboxd
IMAGE_BUILD=debug scripts/build-image.sh fsa
use_build debug
FSA_TEST_APPS=$(scripts/fetch-test-apps.sh | tail -n 1)
export FSA_TEST_APPS

work=$(mktemp -d /tmp/fsa-test.XXXXXX)
log=$work/log
cluster=$work/cluster
trap '[ ! -d "$cluster" ] || tests/cluster/down.sh "$cluster" || true; rm -rf "$work"' EXIT
# It ends with this script, however that ends.
FSA_TEST_OWNER=$$ tests/cluster/up.sh "$cluster"
# shellcheck disable=SC1091
. "$cluster/env"
tests/cluster/image.sh "$cluster" "$FSA_CACHE/images/sandboxd.oci.tar" fsa.test/sandboxd:1
tests/cluster/image.sh "$cluster" "$CARGO_TARGET_DIR/images/fsa.oci.tar" fsa.test/fsa:1
tests/cluster/gateway.sh "$cluster"
tests/cluster/ingress.sh "$cluster" start
tests/cluster/kubeblocks.sh "$cluster" start v1

say "tests"
profile=default
[ -z "${CI:-}" ] || profile=ci
# They wait for processes, pods and databases for longer than they compute.
NEXTEST_TEST_THREADS=$(($(nproc) + 1))
export NEXTEST_TEST_THREADS
# Sandboxes need root or user namespaces, never the terminal.
cargo nextest run --locked --workspace --profile "$profile" "$@" </dev/null 2>&1 | tee "$log"
# The group has one generation at a time, so what concerns the older one comes after.
if [ $# -eq 0 ]; then
    say "databases of KubeBlocks as v1alpha1"
    tests/cluster/kubeblocks.sh "$cluster" start v1alpha1
    cargo nextest run --locked --workspace --profile "$profile" --test cluster -E 'test(/^kubeblocks::/)' </dev/null
fi
cargo test --locked --workspace --doc --quiet </dev/null

for suite in scripts/test-*.sh; do
    say "$suite"
    "$suite" </dev/null
done
tests/cluster/down.sh "$cluster"
say "everything passed"
sed -n 's/\x1b\[[0-9;]*m//g; s/^ *\(Summary .* tests\{0,1\} run: .*\)/\1/p' "$log" | tail -n 1
