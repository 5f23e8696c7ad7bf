#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET]: tries every parser of bytes from outside (fuzz/tests/parsers), or one, for so many
# seconds each (600), as many at a time as there are processors. Failing inputs are written to fuzz/corpus, with
# which every later run begins, the short one of `make test` included.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
seconds=${1:-600}
shift || true
FSA_FUZZ_SECONDS=$seconds cargo test --locked --workspace --test parsers -- --nocapture --test-threads "$(nproc)" "$@"
