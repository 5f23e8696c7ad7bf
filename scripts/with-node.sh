#!/usr/bin/env bash
# with-node.sh COMMAND...: runs it with a Node that is new enough for the web bundle's tools: this machine's, or, if that
# is missing or too old (Debian 12 has 18), the version of the runtime image, unpacked once in the cache.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# The oldest version that Vite 8 supports.
required=20.19
have=$(node --version 2>/dev/null || true)
if ! version_at_least "${have#v}" $required; then
    # shellcheck source=images/web/versions.env
    . "$ROOT/images/web/versions.env"
    node=$FSA_CACHE/node-$NODE_VERSION-npm-$NPM_VERSION
    if [ ! -d "$node" ]; then
        case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) die "Node $required or later is required; install it" ;; esac
        say "this machine's Node is ${have:-missing}; fetching $NODE_VERSION"
        mkdir -p "$FSA_CACHE"
        new=$(mktemp -d "$FSA_CACHE/node.XXXXXX")
        trap 'rm -rf "$new"' EXIT
        mkdir -p "$new/npm"
        (cd "$new" && fsa_npm pack --silent "node-linux-$arch@$NODE_VERSION" "npm@$NPM_VERSION" >/dev/null) ||
            die "npm could not fetch Node $NODE_VERSION: check npm's registry and proxy settings"
        tar -xzf "$new/node-linux-$arch-$NODE_VERSION.tgz" -C "$new" --strip-components=1 --no-same-owner package/bin/node
        tar -xzf "$new/npm-$NPM_VERSION.tgz" -C "$new/npm" --strip-components=1 --no-same-owner
        rm -f "$new"/*.tgz
        ln -s ../npm/bin/npm-cli.js "$new/bin/npm"
        ln -s ../npm/bin/npx-cli.js "$new/bin/npx"
        chmod 755 "$new" "$new/bin/node" "$new"/npm/bin/*-cli.js
        mv -T "$new" "$node"
        trap - EXIT
    fi
    PATH=$node/bin:$PATH
    export PATH
fi
export npm_config_cache="$FSA_CACHE/npm" npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false
exec "$@"
