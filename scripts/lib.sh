# shellcheck shell=bash
# What every script here shares: where the checkout and the cache are, how a script speaks, root and npm.
# Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Things that are costly to make and do not belong to one checkout: tools, images, npm's downloads.
FSA_CACHE=${FSA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fsa}
export ROOT FSA_CACHE

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: as it is where we are root, else through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root and there is no sudo here; run as root: $*"
    fi
}

# version_at_least HAVE WANT: dotted numbers, "1.95.0" "1.90".
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# The npm of this machine, keeping its downloads in our cache and asking nothing.
fsa_npm() {
    npm_config_cache="$FSA_CACHE/npm" npm_config_update_notifier=false npm_config_fund=false \
        npm_config_audit=false npm_config_yes=true npm_config_loglevel=error npm "$@"
}
