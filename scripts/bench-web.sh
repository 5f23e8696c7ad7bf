#!/usr/bin/env bash
# bench-web.sh: measures the web page in a real browser on this machine, and prints the results with their targets.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-packages.sh run image browser
scripts/build.sh
use_build release
unset FSA_WEB_IMAGE
folder=$(mktemp -d /tmp/fsa-bench-web.XXXXXX)
chmod 755 "$folder"
pid=
finish() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" || true
    fi
    "$FSA_BIN" halt --yes --data-dir "$folder/data" >/dev/null 2>&1 || warn "fsa halt failed for $folder/data"
    rm -rf "$folder"
}
trap finish EXIT
# The pipe has the line "Ready on", or ends with the server.
mkfifo "$folder/out"
"$FSA_BIN" serve --data-dir "$folder/data" --listen 127.0.0.1:0 --print-token >"$folder/out" 2>"$folder/log" &
pid=$!
token='' url=''
while IFS= read -r line; do
    case $line in
    fsa_*) token=$line ;;
    "Ready on "*) url=http://localhost:${line##*:} && break ;;
    esac
done <"$folder/out"
[ -n "$url" ] || die "fsa serve did not start: $(tail -n 5 "$folder/log")"
say "measuring"
FSA_URL=$url FSA_TOKEN=$token scripts/with-node.sh timeout 900 node web/test/browser/bench.mjs </dev/null | grep -v '^passed$' | column -t -s "$(printf '\t')"
