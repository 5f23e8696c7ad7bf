#!/usr/bin/env bash
# install-tools.sh [nextest] [deny]: the cargo commands that tests and lint use, in $FSA_CACHE/tools, each in
# the version that is written here. Building one takes minutes, once.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

declare -A VERSIONS=([nextest]=0.9.151 [deny]=0.20.2)

[ $# -gt 0 ] || set -- nextest deny
for tool in "$@"; do
    version=${VERSIONS[$tool]:-}
    [ -n "$version" ] || die "there is no tool $tool; there are ${!VERSIONS[*]}"
    grep -qsF "\"cargo-$tool $version " "$FSA_CACHE/tools/.crates.toml" && continue
    say "building cargo-$tool $version; this takes some minutes, once"
    # In a target folder of its own, which cargo removes.
    env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install --locked --quiet --root "$FSA_CACHE/tools" "cargo-$tool@$version" ||
        die "cargo could not install cargo-$tool $version; its messages are above"
done
