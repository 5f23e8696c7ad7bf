#!/usr/bin/env bash
# test-image.sh: the runtime image `web` in the cache. Reads it with skopeo, runs it with the OCI runtime as
# its own user, and runs each program that users expect in it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

archive=${FSA_WEB_IMAGE:-$("$ROOT/scripts/build-image.sh" --print web)}
[ -s "$archive" ] || die "no image at $archive: run make image"
work=$(mktemp -d "${TMPDIR:-/var/tmp}/fsa-image-test.XXXXXX")
name=fsa-image-test-$$
trap 'runc --root "$work/runc" delete --force "$name" 2>/dev/null || true; rm -rf "$work"' EXIT

say "skopeo reads the archive, and its configuration is what sandboxes need"
skopeo inspect --config "oci-archive:$archive" >"$work/config.json"
jq -e '.config.User == "dev" and .config.WorkingDir == "/home/dev/project"
    and (.config.ExposedPorts | keys == ["3000/tcp", "5000/tcp", "7681/tcp", "8080/tcp"])
    and (.rootfs.diff_ids | length >= 3)' "$work/config.json" >/dev/null ||
    die "the image's configuration is not the expected one: $(jq -c .config "$work/config.json")"

say "the layers have the digests and contents that the manifest says"
mkdir "$work/layout" "$work/rootfs"
tar -xf "$archive" -C "$work/layout"
blob() { printf '%s/layout/blobs/%s' "$work" "${1/://}"; }
manifest=$(blob "$(jq -r '.manifests[0].digest' "$work/layout/index.json")")
mapfile -t layers < <(jq -r '.layers[].digest' "$manifest")
mapfile -t diffs < <(jq -r '.rootfs.diff_ids[]' "$work/config.json")
for at in "${!layers[@]}"; do
    layer=$(blob "${layers[at]}")
    [ "sha256:$(sha256sum <"$layer" | cut -d ' ' -f 1)" = "${layers[at]}" ] || die "layer $at is not ${layers[at]}"
    [ "sha256:$(zstd -dcq "$layer" | sha256sum | cut -d ' ' -f 1)" = "${diffs[at]}" ] ||
        die "layer $at does not unpack to ${diffs[at]}"
    tar -xpf "$layer" --zstd -C "$work/rootfs"
done
rm -rf "$work/layout"
strange=$(find "$work/rootfs" -xdev \( -type b -o -type c -o -type p -o -type s -o -perm /6000 -type f \) -print)
[ -z "$strange" ] || die "device nodes, sockets or set-id programs in the image: $strange"

say "every program runs as the image's user"
cat >"$work/rootfs/tmp/check.sh" <<'CHECK'
set -eu
[ "$(pwd)" = /home/dev/project ] && touch here && rm here
if [ "$(id -u)" -ne 0 ]; then [ "$(id -un)" = dev ]; fi
case $(node -v) in v2[2-9].* | v[3-9]?.*) ;; *) echo "node is $(node -v)"; exit 1 ;; esac
echo "node $(node -v), npm $(npm -v), pnpm $(pnpm -v)"
claude --version
psql --version
rg --version | head -n 1
gcc --version | head -n 1
git --version && git init -q /tmp/repo && git -C /tmp/repo symbolic-ref HEAD | grep -q main
python3 -m venv /tmp/venv && /tmp/venv/bin/pip --version
printf 'int main(void) { return 0; }' >/tmp/a.c && make -s -C /tmp a && /tmp/a
node -e 'fetch; require("node:sqlite")'
echo 'é' | grep -q '^.$'
for program in bash curl jq less nano vi ssh unzip xz ps lsof make pkg-config; do command -v $program >/dev/null || { echo "no $program"; exit 1; }; done
CHECK
as_user='.'
spec=()
[ "$(id -u)" -eq 0 ] && as_user='.process.user = {uid: 1000, gid: 1000}' || spec=(--rootless)
mkdir "$work/bundle"
runc spec "${spec[@]}" --bundle "$work/bundle"
jq --slurpfile image "$work/config.json" '$image[0].config as $image
    | .process.terminal = false | .root.readonly = false
    | .process.args = ["/bin/bash", "/tmp/check.sh"] | .process.cwd = $image.WorkingDir | .process.env = $image.Env
    | .root.path = $rootfs | '"$as_user" --arg rootfs "$work/rootfs" "$work/bundle/config.json" >"$work/bundle/config.new"
mv "$work/bundle/config.new" "$work/bundle/config.json"
runc --root "$work/runc" run --bundle "$work/bundle" "$name" </dev/null || die "the check inside the image failed; its output is above"
say "the image is good"
