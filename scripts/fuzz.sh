#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET]: fuzzes every parser of untrusted bytes (fuzz/tests/parsers), or one, for SECONDS (600) each,
# in parallel. Failing inputs are written to fuzz/corpus; every later run, also that of `make test`, starts with them.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
seconds=${1:-600}
shift || true
FSA_FUZZ_SECONDS=$seconds cargo test --locked --workspace --test parsers -- --nocapture --test-threads "$(nproc)" "$@"
