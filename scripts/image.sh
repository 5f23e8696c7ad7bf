#!/usr/bin/env bash
# image.sh: the runtime image `web`, with what is needed to build it, in $FSA_CACHE/images/web.oci.tar.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh image
scripts/build-image.sh web
