# shellcheck shell=bash
# What every script here shares: where things are, how a script speaks, root, npm and cargo.
# Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What is costly to make and does not belong to one checkout: tools, images, npm's downloads.
FSA_CACHE=${FSA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fsa}
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
export FSA_CACHE CARGO_TARGET_DIR
# Our tools first; then cargo where rustup puts it, which a login shell would have added.
[ ! -d "$HOME/.cargo/bin" ] || PATH=$HOME/.cargo/bin:$PATH
PATH=$FSA_CACHE/tools/bin:$PATH
# Where Debian keeps runc, nft and the like, for plain users.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

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

# version_at_least HAVE WANT: dotted numbers, such as 1.95.0 and 1.90.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# The npm of this machine, keeping its downloads in our cache and asking nothing.
fsa_npm() {
    npm_config_cache="$FSA_CACHE/npm" npm_config_update_notifier=false npm_config_fund=false \
        npm_config_audit=false npm_config_yes=true npm_config_loglevel=error npm "$@"
}

# The machine's own target. sandboxd is built for it by name, because only then do the flags that make it
# static stay away from build scripts and macros.
host_target() { printf '%s-unknown-linux-gnu' "$(uname -m)"; }

# Always the release build: it is small, and what sandboxes run in tests is what they run elsewhere.
build_sandboxd() {
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --package fsa-sandboxd --target "$(host_target)"
}

# use_build release|debug: says to `fsa` and to the tests where the parts of this build are.
use_build() {
    FSA_BIN=$CARGO_TARGET_DIR/$1/fsa
    FSA_SANDBOXD=$CARGO_TARGET_DIR/$(host_target)/release/fsa-sandboxd
    FSA_WEB_IMAGE=$FSA_CACHE/images/web.oci.tar
    export FSA_BIN FSA_SANDBOXD FSA_WEB_IMAGE
}
