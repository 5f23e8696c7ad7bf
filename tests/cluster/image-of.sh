#!/usr/bin/env bash
# image-of.sh ROOTFS ARCHIVE [CONFIG_JSON]: makes an OCI archive with one layer from a folder. The cluster's own
# images are that small, and no registry is asked for them.
set -euo pipefail
rootfs=$1 archive=$2 config=${3:-'{}'}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/image/blobs/sha256
mkdir -p "$blobs"

# put FILE: moves a file to the blobs and prints `"digest":…,"size":…`.
put() {
    local digest size
    digest=$(sha256sum "$1" | cut -d ' ' -f 1)
    size=$(stat -c %s "$1")
    mv "$1" "$blobs/$digest"
    printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}

tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$rootfs" -cf "$work/layer" .
layer=$(put "$work/layer")
diff=${layer#'"digest":"'} diff=${diff%%'"'*}
architecture=$(dpkg --print-architecture)
printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
    "$architecture" "$config" "$diff" >"$work/config"
config=$(put "$work/config")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",%s}]}' \
    "$config" "$layer" >"$work/manifest"
manifest=$(put "$work/manifest")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"platform":{"architecture":"%s","os":"linux"}}]}' \
    "$manifest" "$architecture" >"$work/image/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/image/oci-layout"
tar -C "$work/image" -cf "$archive.part" oci-layout index.json blobs
mv "$archive.part" "$archive"
