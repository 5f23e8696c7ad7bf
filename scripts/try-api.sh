#!/usr/bin/env bash
# try-api.sh [SECONDS]: tries every operation of the API's document with valid and broken requests (schemathesis)
# against a server whose data plane is in memory. No answer is a 500, and none has a status that the document
# does not name. By hand so far, and no part of `make test`: some operations refuse with a 400, 415 or 422 that their
# document leaves out.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
seconds=${1:-60}
tool=$FSA_CACHE/tools/schemathesis-$(sha256sum <scripts/try-api.txt | head -c 12)
if [ ! -d "$tool" ]; then
    say "installing schemathesis"
    fresh=$(mktemp -d "$FSA_CACHE/tools/new.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
        --target "$fresh" --requirement scripts/try-api.txt
    mv "$fresh" "$tool"
fi

cargo build --locked --quiet --workspace --example in_memory
work=$(mktemp -d "${TMPDIR:-/tmp}/fsa-api.XXXXXX")
mkfifo "$work/in" "$work/out"
"$CARGO_TARGET_DIR/debug/examples/in_memory" <"$work/in" >"$work/out" 2>"$work/log" &
server=$!
exec 3>"$work/in" 4<"$work/out"
# It ends with its standard input.
trap 'exec 3>&-; wait "$server" || true; rm -rf "$work"' EXIT
read -r -t 120 url <&4 || die "the server did not start: $(tail -n 5 "$work/log")"
read -r -t 10 token <&4

say "schemathesis, $seconds s"
# Broken requests are answered with whatever 4xx fits best, so the tool's own idea of which is not asked for.
PYTHONPATH=$tool timeout $((seconds * 3 + 120)) "$tool/bin/schemathesis" --config-file scripts/try-api.toml run \
    --url "$url" --header "Authorization: Bearer $token" --seed 1 --max-time "$seconds" \
    --phases examples,coverage,fuzzing --checks not_a_server_error,status_code_conformance \
    --max-examples 25 --request-timeout 20 --workers 2 --no-shrink --continue-on-failure \
    "$url/api/openapi.json" || die "the API broke its own document; the server's log ends: $(tail -n 5 "$work/log")"
