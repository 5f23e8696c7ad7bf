#!/usr/bin/env bash
# test.sh [NEXTEST ARGUMENT...]: makes this machine ready and runs every check: lint, the workspace's tests with
# the real runtime, database and image, and the scripts scripts/test-*.sh. Its last line is the tests' count.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image test browser
scripts/install-tools.sh nextest deny
scripts/lint.sh

say "building what the tests run"
scripts/build-web.sh
build_sandboxd
cargo build --locked --package fsa-cli
scripts/build-image.sh web
use_build debug
FSA_TEST_APPS=$(scripts/fetch-test-apps.sh | tail -n 1)
export FSA_TEST_APPS

say "tests"
profile=default
[ -z "${CI:-}" ] || profile=ci
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Sandboxes need root or user namespaces, never the terminal.
cargo nextest run --locked --workspace --profile "$profile" "$@" </dev/null 2>&1 | tee "$log"
cargo test --locked --workspace --doc --quiet </dev/null

for suite in scripts/test-*.sh; do
    say "$suite"
    "$suite" </dev/null
done
say "everything passed"
sed -n 's/\x1b\[[0-9;]*m//g; s/^ *\(Summary .* tests\{0,1\} run: .*\)/\1/p' "$log" | tail -n 1
