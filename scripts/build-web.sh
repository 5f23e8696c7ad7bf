#!/usr/bin/env bash
# build-web.sh: the web bundle, web/dist, if web/ has an application; does nothing while its sources are
# unchanged.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ -f "$ROOT/web/package.json" ] || exit 0
cd "$ROOT/web"

# stale STAMP PATH...: whether one of the paths, or a file below it, is newer than the stamp.
stale() {
    local stamp=$1
    shift
    [ ! -e "$stamp" ] || [ -n "$(find "$@" -newer "$stamp" -print -quit)" ]
}

if stale node_modules/.fsa-installed package.json package-lock.json; then
    say "installing the web application's packages"
    "$ROOT/scripts/with-node.sh" npm ci --loglevel=error
    touch node_modules/.fsa-installed
fi
# Every file here can change the bundle, except the build's own output and the packages, which have a stamp.
mapfile -t sources < <(find . -mindepth 1 -maxdepth 1 ! -name node_modules ! -name dist ! -name 'test*')
if stale dist/index.html "${sources[@]}" node_modules/.fsa-installed; then
    say "building the web application"
    "$ROOT/scripts/with-node.sh" npm run build
fi
