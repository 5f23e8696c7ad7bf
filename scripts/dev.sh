#!/usr/bin/env bash
# dev.sh [ARGUMENT...]: builds fsa (debug), runs `fsa serve ARGUMENT...` on loopback with a data folder for development,
# and rebuilds and restarts it when a source file of crates/ or web/ changes. If a build fails, the old server continues.
# The first run takes about 6 minutes on 2 cores, a change about half a minute.
#
# Data folder: FSA_DATA_DIR, else /var/lib/fsa-dev as root and ~/.local/share/fsa-dev as a plain user.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
if [ "$(id -u)" -eq 0 ]; then
    # Not in the checkout or root's home: the server drops to a system user, which cannot enter those.
    data=/var/lib/fsa-dev
else
    data=${XDG_DATA_HOME:-$HOME/.local/share}/fsa-dev
fi
export FSA_DATA_DIR=${FSA_DATA_DIR:-$data}
# Error responses contain their causes, and a restart does not wait for open streams.
export FSA_DEVELOPMENT=true FSA_DRAIN_SECONDS=1

server='' watcher='' started=
stop_server() {
    [ -n "$server" ] || return 0
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
finish() {
    stop_jobs
    stop_server
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
    [ -z "$started" ] || say "fsa serve has ended. Sandboxes keep running; to end them: $FSA_BIN halt --data-dir $FSA_DATA_DIR"
}

# Other commands of `fsa` search for fsa-sandboxd beside it.
build() {
    scripts/build-web.sh && cargo build --locked --package fsa-cli && build_sandboxd debug &&
        install -m 755 "$FSA_SANDBOXD" "$CARGO_TARGET_DIR/debug/fsa-sandboxd"
}
programs() { stat -c '%i %Y' "$FSA_BIN" "$FSA_SANDBOXD" 2>/dev/null || true; }
start_server() {
    say "starting fsa serve with its data in $FSA_DATA_DIR"
    "$FSA_BIN" serve "$@" </dev/null &
    server=$! started=1
}

use_build debug debug
trap finish EXIT
say "Debian packages that are missing (1 min on a first run)"
scripts/install-packages.sh run image dev
say "runtime image in the background (3 min on a first run)"
job "runtime image" scripts/build-image.sh web
# Watch before the build, so that no change is missed. Files that builds and editors write are excluded.
mapfile -t sources < <(find Cargo.toml Cargo.lock crates web -maxdepth 0)
exec 3< <(exec inotifywait --monitor --recursive --quiet --event close_write,move,delete \
    --exclude '(^|/)(node_modules|dist|target|test)(/|$)|/src/api/schema\.d\.ts$|timestamp-|\.snap\.new$|\.sw.$|~$|/\.#|/4913$' \
    "${sources[@]}")
watcher=$!
say "debug build of the page, fsa and fsa-sandboxd (5 min on a first run)"
if build; then
    finish_job "runtime image"
    start_server "$@"
else
    warn "the build failed; it is tried again after a change"
fi
while read -r -u 3 changed; do
    # A save causes several events, a checkout many.
    while read -r -t 0.3 -u 3; do :; done
    say "changed: $changed"
    before=$(programs)
    if ! build; then
        warn "the build failed; the old server goes on until the next change"
    elif [ -z "$server" ] || [ "$(programs)" != "$before" ]; then
        finish_job "runtime image"
        stop_server
        start_server "$@"
    fi
done
