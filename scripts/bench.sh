#!/usr/bin/env bash
# bench.sh [ARGUMENT...]: measures the release build on this machine and keeps the result in
# docs/benchmarks.md. Needs a quiet machine.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image bench
scripts/build.sh
scripts/build-image.sh web
use_build release
exec cargo run --locked --release --package fsa-bench -- "$@"
