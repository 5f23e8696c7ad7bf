#!/usr/bin/env bash
# with-node.sh COMMAND...: runs it with a Node that the web bundle's tools can use. That is this machine's,
# or, where it has none or an old one (Debian 12 has 18), the one that the runtime image has, unpacked once
# in the cache.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# The oldest that Vite 8 runs on.
needed=20.19
have=$(node --version 2>/dev/null || true)
if ! version_at_least "${have#v}" $needed; then
    # shellcheck source=images/web/versions.env
    . "$ROOT/images/web/versions.env"
    node=$FSA_CACHE/node-$NODE_VERSION-npm-$NPM_VERSION
    if [ ! -d "$node" ]; then
        case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) die "Node $needed or later is needed; install it" ;; esac
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
