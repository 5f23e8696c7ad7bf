#!/usr/bin/env bash
# image.sh: all images, with what is needed to build them: `web`, which projects run in, and for clusters `fsa`, the
# control plane, and `sandboxd`, which every pod starts from; in $FSA_CACHE/images/{web,fsa,sandboxd}.oci.tar.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image
trap stop_jobs EXIT
job "runtime image" scripts/build-image.sh web
scripts/build.sh
finish_job "runtime image"
scripts/build-image.sh fsa
scripts/build-image.sh sandboxd
