#!/usr/bin/env bash
# run.sh [ARGUMENT...]: makes this machine ready, builds what is not built, and becomes `fsa serve ARGUMENT...`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image
scripts/build.sh
scripts/build-image.sh web
use_build release
exec "$FSA_BIN" serve "$@"
