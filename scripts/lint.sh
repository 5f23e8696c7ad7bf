#!/usr/bin/env bash
# lint.sh: everything that is checked without running the program.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-tools.sh deny

say "rustfmt"
cargo fmt --all --check

say "clippy"
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

say "cargo deny: bans, licenses, sources"
cargo deny --locked --log-level error check --show-stats bans licenses sources

# The database of advisories is a git repository that not every machine can reach, and its absence says
# nothing about this code. What was checked is said either way.
if fetched=$(timeout 120 cargo deny --locked fetch db 2>&1); then
    say "cargo deny: advisories"
    cargo deny --locked --log-level error check --disable-fetch advisories
else
    warn "advisories were NOT checked: their database could not be fetched ($(tail -n 1 <<<"$fetched"))"
fi

mapfile -t scripts < <(find scripts images tests .ci -type f \( -name '*.sh' -o -path .ci/run \) 2>/dev/null | sort)
if command -v shellcheck >/dev/null; then
    say "shellcheck"
    shellcheck --external-sources "${scripts[@]}"
else
    warn "the shell scripts were NOT checked: install shellcheck"
fi
say "lint is clean"
