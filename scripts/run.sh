#!/usr/bin/env bash
# run.sh [ARGUMENT...]: makes this machine ready, builds what is not built, and becomes `fsa serve ARGUMENT...`.
# The durations it prints are those of a first run on 2 cores; a step with nothing to do takes no time.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
trap stop_jobs EXIT
say "1/4 Debian packages that are missing: compiler, container runtime, PostgreSQL, image tools (1 min)"
scripts/install-packages.sh run image
say "2/4 runtime image in the background: Debian, Node and Claude Code for the sandboxes (3 min)"
job "runtime image" scripts/build-image.sh web
say "3/4 fsa: the web page, then the release build (7 min; seconds if built before)"
scripts/build.sh
finish_job "runtime image"
stop_jobs
use_build release
say "4/4 starting fsa serve"
exec "$FSA_BIN" serve "$@"
