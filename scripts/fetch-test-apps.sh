#!/usr/bin/env bash
# fetch-test-apps.sh: the packages that the end-to-end tests' applications need, fetched once into
# $FSA_CACHE/test-apps, so that no test waits for a registry: pg for Node, Next.js, the wheels of Flask and psycopg, and the
# agents that the image does not contain.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PG=8.16.3
NEXT=15.5.4
REACT=19.2.0
FLASK=3.1.2
PSYCOPG=3.2.10
CODEX=0.171.0
GEMINI=0.61.0
apps=$FSA_CACHE/test-apps/pg-$PG-next-$NEXT-$REACT-flask-$FLASK-psycopg-$PSYCOPG-codex-$CODEX-gemini-$GEMINI
if [ ! -e "$apps/.complete" ]; then
    mkdir -p "$FSA_CACHE/test-apps"
    fresh=$(mktemp -d "$FSA_CACHE/test-apps/new.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    chmod 755 "$fresh"
    mkdir -p "$fresh/node" "$fresh/next/app" "$fresh/wheels" "$fresh/agents"
    say "fetching the packages of the tests' applications"
    echo '{"name": "node-application", "private": true}' >"$fresh/node/package.json"
    (cd "$fresh/node" && "$ROOT/scripts/with-node.sh" npm install --loglevel=error --no-audit --no-fund "pg@$PG")
    echo '{"name": "next-application", "private": true, "scripts": {"dev": "next dev"}}' >"$fresh/next/package.json"
    (cd "$fresh/next" && "$ROOT/scripts/with-node.sh" npm install --loglevel=error --no-audit --no-fund \
        "next@$NEXT" "react@$REACT" "react-dom@$REACT")
    # Without install scripts: they would build native modules, which the agents do not need.
    echo '{"name": "agents", "private": true}' >"$fresh/agents/package.json"
    (cd "$fresh/agents" && "$ROOT/scripts/with-node.sh" npm install --loglevel=error --no-audit --no-fund \
        --ignore-scripts "@openai/codex@$CODEX" "@google/gemini-cli@$GEMINI")
    # The image uses the build for glibc; the one for musl is half of the size.
    rm -rf "$fresh"/next/node_modules/@next/swc-*-musl "$fresh"/next/node_modules/@img/*musl*
    python3 -m pip download --quiet --only-binary :all: --python-version 3.11 --dest "$fresh/wheels" "flask==$FLASK" "psycopg[binary]==$PSYCOPG"
    touch "$fresh/.complete"
    rm -rf "$apps"
    mv "$fresh" "$apps"
    trap - EXIT
fi
echo "$apps"
