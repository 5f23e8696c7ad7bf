#!/usr/bin/env bash
# image.sh: both images, with what is needed to build them: `web`, which projects run in, and `fsa`, the control
# plane for a cluster, in $FSA_CACHE/images/{web,fsa}.oci.tar.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image
scripts/build-image.sh web
scripts/build.sh
scripts/build-image.sh fsa
