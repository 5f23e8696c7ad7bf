#!/usr/bin/env bash
# test-web.sh: the types and the logic of the web page. Its screens are in the end-to-end tests.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

"$ROOT/scripts/build-web.sh"
cd "$ROOT/web"
"$ROOT/scripts/with-node.sh" npm run check
"$ROOT/scripts/with-node.sh" npm test
