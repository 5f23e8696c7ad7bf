#!/usr/bin/env bash
# test-lint.sh: tests our checks of lint.sh and the tools that it configures. Each check runs on a copy of the source with
# one violation, and must fail and report its place.
# Backticks in messages are literal.
# shellcheck disable=SC2016
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
scripts/install-tools.sh shear typos
work=$(mktemp -d "${TMPDIR:-/tmp}/fsa-lint.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Without tracked files that are deleted in the work tree.
git ls-files -z --cached --others --exclude-standard --deduplicate |
    tar -c --null --ignore-failed-read --warning=no-failed-read --files-from - | tar -x -C "$work"
git -C "$work" init --quiet
cd "$work"

spelling() { typos; }
paths() { "$ROOT/scripts/with-node.sh" node scripts/check-paths.mjs; }
layers() { "$ROOT/scripts/with-node.sh" node scripts/check-layers.mjs; }
# Not locked: a planted dependency is not in the lock file.
unused() { cargo shear --offline; }

# after FILE LINE TEXT: inserts TEXT after the first line of FILE that equals LINE.
after() {
    grep -qxF "$2" "$1" || die "$1 has no line $2; this test needs another place"
    sed -i "$(grep -nxF -m 1 "$2" "$1" | cut -d : -f 1)r /dev/stdin" "$1" <<<"$3"
}

# finds CHECK MESSAGE FILE...: CHECK fails with MESSAGE in its output, and passes after the FILEs are restored.
finds() {
    local check=$1 message=$2 output
    shift 2
    if output=$("$check" 2>&1); then die "$check did not find its violation: $message"; fi
    [[ $output == *"$message"* ]] || die "$check says '$output' and not '$message'"
    for file in "$@"; do
        if [ -e "$ROOT/$file" ]; then cp "$ROOT/$file" "$file"; else rm "$file"; fi
    done
    say "$check: $message"
}

for check in spelling paths layers unused; do
    "$check" >"$work/.git/said" 2>&1 || die "$check finds something before anything was planted: $(cat "$work/.git/said")"
done

# In two parts, since this file is checked as well.
echo "The col""our." >>README.md
finds spelling 'should be `color`' README.md
echo '// The clients are not yet hea''rd of.' >>crates/server/src/core.rs
finds spelling 'should be `notified`' crates/server/src/core.rs
echo 'fn seal_an''ew() {}' >>crates/server/src/core.rs
finds spelling 'should be `reencrypt`' crates/server/src/core.rs

echo 'See [there](docs/guide/nowhere.md).' >>README.md
finds paths 'the link leads to docs/guide/nowhere.md' README.md
echo 'See [there](docs/guide/README.md#no-such-heading).' >>README.md
finds paths 'has no such heading' README.md
echo 'It is in `store/nowhere.rs`.' >>README.md
finds paths 'there is no file store/nowhere.rs' README.md
echo 'It is in `mod.rs`.' >>README.md
finds paths 'several files are called mod.rs' README.md

after crates/model/Cargo.toml '[dependencies]' 'hex.workspace = true'
finds unused 'unused dependency `hex`' crates/model/Cargo.toml Cargo.lock

after crates/driver/Cargo.toml '[dependencies]' 'fsa-server.workspace = true'
finds layers 'fsa-driver must not depend on fsa-server' crates/driver/Cargo.toml
echo 'fn planted() { crate::api::planted() }' >>crates/server/src/store/mod.rs
finds layers '`store` must not import `api`' crates/server/src/store/mod.rs
echo 'pub fn planted() {}' >crates/server/src/planted.rs
finds layers 'the module `planted` has no layer' crates/server/src/planted.rs

# A crate of three modules with a separate order, so that the tests do not depend on real module names.
mkdir -p crates/planted/src
printf '[package]\nname = "planted"\n' >crates/planted/Cargo.toml
echo 'mod a; mod b; mod c; pub use c::Shared;' >crates/planted/src/lib.rs
printf 'use crate::{\n    b::{One, Two},\n    Shared,\n};\n' >crates/planted/src/a.rs
printf '// crate::c\nconst X: &str = "crate::c";\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n' >crates/planted/src/b.rs
echo 'pub struct Shared;' >crates/planted/src/c.rs
# order LAYERS ALLOWED
order() {
    printf 'import { crates as all } from "%s";\nexport const crates = { ...all, planted: [] };\nexport const modules = { "crates/planted": { layers: %s, allowed: %s } };\n' \
        "$ROOT/scripts/layers.mjs" "$1" "$2" >scripts/layers.mjs
}
order '[["a"], ["b"], ["c"]]' '[]'
layers 2>"$work/.git/said" || die "an order that is kept was refused: $(cat "$work/.git/said")"
order '[["b"], ["a"], ["c"]]' '[]'
finds layers 'crates/planted/src/a.rs:2: `a` must not import `b`'
order '[["b"], ["c"], ["a"]]' '[["a", "b"]]'
finds layers 'crates/planted/src/a.rs:3: `a` must not import `c`'
order '[["a"], ["b"], ["c"]]' '[["c", "a"]]'
finds layers '`c` imports `a` no longer'
order '[["a"], ["b"], ["c"], ["gone"]]' '[]'
finds layers 'has no module `gone` any more'
echo 'use super::a::A;' >crates/planted/src/c.rs
order '[["a", "b", "c"]]' '[]'
finds layers 'the modules a → c → a import each other in a cycle'
say "every check of lint finds what it is there for"
