#!/usr/bin/env bash
# build.sh: the release build of fsa, with the web bundle if there is one, and of sandboxd.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/build-web.sh
cargo build --locked --release --package fsa-cli
build_sandboxd
