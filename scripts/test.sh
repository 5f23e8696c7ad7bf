#!/usr/bin/env bash
# test.sh [NEXTEST ARGUMENT...]: makes this machine ready and runs every check: lint, the workspace's tests with
# the real runtime, database, image and cluster, and the scripts scripts/test-*.sh. Its last line is the tests'
# count.
#
# The test cluster and the images are built as background jobs beside lint and the Rust build. On a first run Kubernetes
# is still compiling when the Rust build is done: then the tests that need no cluster run first.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
work=$(mktemp -d /tmp/fsa-test.XXXXXX)
log=$work/log
cluster=$work/cluster
finish() {
    stop_jobs
    [ ! -d "$cluster" ] || tests/cluster/down.sh "$cluster" || true
    rm -rf "$work"
}
trap finish EXIT

fetch_images() {
    scripts/build-image.sh web
    scripts/fetch-test-apps.sh
}
start_cluster() { FSA_TEST_OWNER=$test_pid tests/cluster/up.sh "$cluster"; }
test_pid=$$

# The binaries with tests that need the cluster.
cluster_tests='binary(cluster) | binary(/^e2e_(kubernetes|kubernetes_faults|chart|browser)$/)'

fill_cluster() {
    finish_job cluster
    # shellcheck disable=SC1091
    . "$cluster/env"
    tests/cluster/image.sh "$cluster" "$FSA_CACHE/images/sandboxd.oci.tar" fsa.test/sandboxd:1
    tests/cluster/image.sh "$cluster" "$CARGO_TARGET_DIR/images/fsa.oci.tar" fsa.test/fsa:1
    tests/cluster/gateway.sh "$cluster"
    tests/cluster/ingress.sh "$cluster" start
    tests/cluster/kubeblocks.sh "$cluster" start v1
}

# run_tests ARGUMENT...: Sandboxes need root or user namespaces, never the terminal.
run_tests() {
    cargo nextest run --locked --workspace --profile "$profile" "$@" </dev/null 2>&1 | tee -a "$log"
}

# nextest's summary line, for one run or for the sum of both.
summary() {
    sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
        $1 == "Summary" {
            runs++; line = $0; sub(/^ */, "", line)
            time = $0; sub(/.*\[ */, "", time); seconds += time
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^tests?$/ && $(i + 1) == "run:") run += $(i - 1)
                if ($i ~ /^passed/) passed += $(i - 1)
            }
        }
        END {
            if (runs == 1) print line
            else printf "Summary [%.3fs] %d tests run: %d passed, %d skipped\n", seconds, run, passed, run - passed
        }'
}

scripts/install-packages.sh run image test cluster browser
scripts/install-tools.sh
# First, because the Rust build embeds the bundle.
scripts/build-web.sh
job cluster start_cluster
job images fetch_images
scripts/lint.sh
check_jobs

say "building what the tests run"
build_sandboxd release
check_jobs
# One build: with another set of features for `fsa`, the largest crates would be compiled twice.
cargo build --locked --workspace --all-targets
check_jobs
finish_job images
scripts/build-image.sh sandboxd
IMAGE_BUILD=debug scripts/build-image.sh fsa
use_build debug
FSA_TEST_APPS=$(scripts/fetch-test-apps.sh | tail -n 1)
export FSA_TEST_APPS

profile=default
[ -z "${CI:-}" ] || profile=ci
# Tests mostly wait for processes, pods and databases.
NEXTEST_TEST_THREADS=$(($(nproc) * 2))
export NEXTEST_TEST_THREADS
failed=
if job_runs cluster && [ $# -eq 0 ]; then
    say "tests that need no cluster; its programs are still being built"
    run_tests -E "not ($cluster_tests)" || failed=1
    fill_cluster
    say "tests that need the cluster"
    run_tests -E "$cluster_tests" || failed=1
else
    fill_cluster
    say "tests"
    run_tests "$@" || failed=1
fi
[ -z "$failed" ] || die "tests failed; nextest names them above"

# The remaining scripts mostly wait or have one thread, so they run in parallel. The last one has a fixed duration.
for suite in scripts/test-*.sh; do
    [ "$suite" = scripts/test-api.sh ] || job "$(basename "$suite")" "$suite"
done
# The group has one generation at a time, so what concerns the older one comes after.
if [ $# -eq 0 ]; then
    say "databases of KubeBlocks as v1alpha1"
    tests/cluster/kubeblocks.sh "$cluster" start v1alpha1
    cargo nextest run --locked --workspace --profile "$profile" --test cluster -E 'test(/^kubeblocks::/)' </dev/null
fi
cargo test --locked --workspace --doc --quiet </dev/null
tests/cluster/down.sh "$cluster"
for suite in scripts/test-*.sh; do
    [ "$suite" = scripts/test-api.sh ] || finish_job "$(basename "$suite")"
done
say scripts/test-api.sh
scripts/test-api.sh </dev/null
say "everything passed"
summary
