#!/usr/bin/env bash
# install-tools.sh [nextest] [deny]: installs the cargo commands that tests and lint use into $FSA_CACHE/tools, in
# the versions that scripts/install-tools.txt pins. They come prebuilt from PyPI, in seconds. Where pip or its index
# is missing they are compiled from crates.io instead, which takes minutes, once.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

pins=$ROOT/scripts/install-tools.txt
bin=$FSA_CACHE/tools/bin

# download TOOL: its wheel, with the digest checked, unpacked by pip.
download() {
    local tool=$1 folder status=0
    folder=$(mktemp -d "$FSA_CACHE/tools/new.XXXXXX")
    # The requirement is the line of the tool and the lines that continue it.
    sed -n "/^astral-dev-toolchain-cargo-$tool==/,/[^\\]\$/p" "$pins" >"$folder/requirement.txt"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes \
        --only-binary :all: --target "$folder/wheel" --requirement "$folder/requirement.txt" >"$folder/log" 2>&1 &&
        "$folder/wheel/bin/cargo-$tool" --version >>"$folder/log" 2>&1 &&
        mv -f "$folder/wheel/bin/cargo-$tool" "$bin/" || status=$?
    [ $status -eq 0 ] || warn "no prebuilt cargo-$tool: $(tail -n 1 "$folder/log")"
    rm -rf "$folder"
    return $status
}

# compile TOOL VERSION: from source, optimized for a short build.
compile() {
    say "compiling cargo-$1 $2 (5 minutes on 2 cores, once)"
    # In a target folder of its own, which cargo removes.
    env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --locked --quiet --force --root "$FSA_CACHE/tools" "cargo-$1@$2" ||
        die "cargo could not install cargo-$1 $2; its messages are above"
}

[ $# -gt 0 ] || set -- nextest deny
mkdir -p "$bin"
for tool in "$@"; do
    version=$(sed -n "s/^astral-dev-toolchain-cargo-$tool==\([0-9.]*\) .*/\1/p" "$pins")
    [ -n "$version" ] || die "no tool is named $tool; scripts/install-tools.txt lists them"
    # Such as "cargo-nextest 0.9.148 (commit and date)".
    installed=$("$bin/cargo-$tool" --version 2>/dev/null | awk 'NR == 1 { print $2 }' || true)
    [ "$installed" != "$version" ] || continue
    say "installing cargo-$tool $version"
    download "$tool" || compile "$tool" "$version"
done
