#!/usr/bin/env bash
# lint.sh: the static checks.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-tools.sh deny shear typos

# The quick ones first.
say "spelling"
typos

say "links and paths in docs"
scripts/with-node.sh node scripts/check-paths.mjs

say "layers of crates and modules"
scripts/with-node.sh node scripts/check-layers.mjs

say "unused dependencies"
cargo shear --locked

say "rustfmt"
cargo fmt --all --check

say "clippy"
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

say "cargo deny: bans, licenses, sources"
cargo deny --locked --log-level error check --show-stats bans licenses sources

# Not every machine can reach the database of advisories, a git repository. A warning says when it was skipped.
if fetched=$(timeout 120 cargo deny --locked fetch db 2>&1); then
    say "cargo deny: advisories"
    cargo deny --locked --log-level error check --disable-fetch advisories
else
    warn "advisories were NOT checked: their database could not be fetched ($(tail -n 1 <<<"$fetched"))"
fi

say "npm's lock file"
scripts/with-node.sh node scripts/check-npm-lock.mjs web/package-lock.json
# Likewise: not every registry answers the audit request.
say "npm audit"
audit=$(cd web && timeout 120 env npm_config_audit=true "$ROOT/scripts/with-node.sh" npm audit --json 2>/dev/null) || true
if [[ $audit == *'"auditReportVersion"'* ]]; then
    level=$(cd web && timeout 120 "$ROOT/scripts/with-node.sh" npm audit --audit-level=high 2>&1) || die "npm audit: $level"
else
    warn "npm's advisories were NOT checked: the registry did not answer ($(tr -d '\n' <<<"$audit" | head -c 120))"
fi

mapfile -t scripts < <(find scripts images tests .ci -type f \( -name '*.sh' -o -path .ci/run \) 2>/dev/null | sort)
if command -v shellcheck >/dev/null; then
    say "shellcheck"
    shellcheck --external-sources "${scripts[@]}"
else
    warn "the shell scripts were NOT checked: install shellcheck"
fi

# Only the test cluster needs Go.
if PATH=$PATH:/usr/local/go/bin type -P go >/dev/null; then
    say "gofmt and go vet"
    unformatted=$(PATH=$PATH:/usr/local/go/bin gofmt -l tests/cluster)
    [ -z "$unformatted" ] || die "these are not formatted (gofmt -w): $unformatted"
    # The small programs. The others wrap all of Kubernetes in a few lines; building them checks them.
    # With the flags of tests/cluster/build.sh, so that both compile the libraries once.
    (cd tests/cluster && PATH=$PATH:/usr/local/go/bin CGO_ENABLED=0 go vet -buildvcs=false -trimpath -gcflags=all=-dwarf=false ./cmd/warden ./cmd/pause ./cmd/standin)
else
    warn "the test cluster's Go was NOT checked: install Go"
fi
say "lint is clean"
