#!/usr/bin/env bash
# unit.sh [NEXTEST ARGUMENT...]: the tests that need neither root nor the OCI runtime nor a built image.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-tools.sh nextest
exec cargo nextest run --workspace --profile unit "$@"
