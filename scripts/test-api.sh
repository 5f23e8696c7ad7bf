#!/usr/bin/env bash
# test-api.sh [SECONDS]: fuzzes every operation of the API's document with valid and invalid requests (schemathesis) for
# SECONDS (50), against a server with the in-memory driver. No response may be a 500 or deviate from the document.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
seconds=${1:-50}
tool=$FSA_CACHE/tools/schemathesis-$(sha256sum <scripts/test-api.txt | head -c 12)
if [ ! -d "$tool" ]; then
    say "installing schemathesis"
    mkdir -p "$FSA_CACHE/tools"
    fresh=$(mktemp -d "$FSA_CACHE/tools/new.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
        --only-binary :all: --target "$fresh" --requirement scripts/test-api.txt || {
        rm -rf "$fresh"
        die "schemathesis could not be installed; pip's messages are above"
    }
    mv "$fresh" "$tool"
fi

cargo build --locked --quiet --workspace --example in_memory
work=$(mktemp -d "${TMPDIR:-/tmp}/fsa-api.XXXXXX")
mkfifo "$work/in" "$work/out"
"$CARGO_TARGET_DIR/debug/examples/in_memory" <"$work/in" >"$work/out" 2>"$work/log" &
server=$!
exec 3>"$work/in" 4<"$work/out"
# The server ends when its standard input ends.
trap 'exec 3>&-; wait "$server" || true; rm -rf "$work"' EXIT
read -r -t 120 url <&4 || die "the server did not start: $(tail -n 5 "$work/log")"
read -r -t 10 token <&4

# try NAME FILTER...: fuzzes the operations that match the filter. The tool's check for particular 4xx statuses is off.
try() {
    local name=$1
    shift
    PYTHONPATH=$tool timeout $((seconds * 2 + 60)) "$tool/bin/schemathesis" --config-file scripts/test-api.toml run \
        --url "$url" --header "Authorization: Bearer $token" --seed 1 --max-time "$seconds" --max-examples 20 \
        --phases examples,coverage,fuzzing --request-timeout 20 --no-shrink --continue-on-failure --no-color \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
        --report json --report-json-path "$work/$name.json" "$@" "$url/api/openapi.json" >"$work/$name.txt" 2>&1
}

say "schemathesis, $seconds s"
# Python has one thread at a time, so each half is a separate process.
declare -A halves
try reads --include-method GET &
halves[reads]=$!
try writes --exclude-method GET &
halves[writes]=$!
broken=
for half in "${!halves[@]}"; do
    if ! wait "${halves[$half]}"; then
        broken=1
        # The failures, with how to repeat them, come after the list of what it ran.
        sed -n '/^=* \(FAILURES\|ERRORS\) =*$/,$p' "$work/$half.txt" | tee "$work/failed" >&2
        [ -s "$work/failed" ] || tail -n 40 "$work/$half.txt" >&2
    fi
done
[ -z "$broken" ] || die "the API broke its own document, see above; the server's log ends: $(tail -n 5 "$work/log")"
all=$(curl --silent --fail --max-time 20 "$url/api/openapi.json" |
    jq '[.paths[] | keys[] | select(IN("get", "put", "post", "patch", "delete"))] | length')
tried=$(jq --slurp 'map(.operations.tested) | add' "$work/reads.json" "$work/writes.json")
[ "$all" -eq "$tried" ] || die "$tried of the API's $all operations were tried in $seconds s"
say "$(jq --slurp 'map(.test_cases.generated) | add' "$work/reads.json" "$work/writes.json") requests, all $all operations"
