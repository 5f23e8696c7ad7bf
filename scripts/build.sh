#!/usr/bin/env bash
# build.sh: the release build of fsa, with the web bundle if web/ has an application, and of sandboxd.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/build-web.sh
say "compiling fsa (release)"
cargo build --locked --release --package fsa-cli
say "compiling fsa-sandboxd (release, static)"
build_sandboxd release
# Beside `fsa`, where every command of it searches for it.
install -m 755 "$CARGO_TARGET_DIR/$(host_target)/release/fsa-sandboxd" "$CARGO_TARGET_DIR/release/fsa-sandboxd"
