#!/usr/bin/env bash
# image.sh: the runtime image `web` and the carrier of sandboxd for clusters, with what is needed to build them, in
# $FSA_CACHE/images/web.oci.tar and sandboxd.oci.tar.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh image
scripts/build-image.sh web
build_sandboxd
scripts/build-image.sh sandboxd
