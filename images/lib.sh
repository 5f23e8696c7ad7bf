# shellcheck shell=bash
# Makes an OCI image out of layers that are plain tar streams, with tar, zstd and jq alone. An image is a
# folder here with a build.sh that calls `layer` once for each layer, bottom first, and then `archive`.
# Sourced by scripts/build-image.sh, which sets IMAGE_NAME, IMAGE_KEY, IMAGE_OUT and IMAGE_ARCH.
#
# Each compressed layer stays in $FSA_CACHE/images/layers under the hash of what it was made from, so a new
# Claude Code rebuilds one layer, and machines that have the old image fetch only that one.

LAYER_STORE=$FSA_CACHE/images/layers
LAYERS=()
# zstd at 10 is where the web image stops getting notably smaller for the time spent; 27 bits of window are
# more than containerd's and skopeo's decoders accept, so --long is left alone.
ZSTD_LEVEL=10

# GNU tar's options for a layer that does not depend on the machine or time of its build. Every file
# belongs to root: layers that need other owners write their own tar.
normal_tar() {
    tar --format=pax --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
        --sort=name --numeric-owner --owner=0 --group=0 --mtime="@$SOURCE_DATE_EPOCH" "$@"
}

# layer NAME MAKER INPUT...: MAKER is a function that writes the layer's tar to the path that it is given.
# INPUT are the files, folders and NAME=VALUE texts that the layer depends on.
layer() {
    local name=$1 maker=$2 key base diff tmp
    shift 2
    key=$(inputs_key "$name" "$IMAGE_ARCH" "$(declare -f "$maker" normal_tar)" "zstd$ZSTD_LEVEL" "$@")
    base=$LAYER_STORE/$IMAGE_NAME-$name-$key
    if [ ! -s "$base.json" ]; then
        say "image $IMAGE_NAME: layer $name"
        tmp=$(mktemp -d "$IMAGE_WORK/$name.XXXXXX")
        "$maker" "$tmp/layer.tar"
        diff=$(sha256 "$tmp/layer.tar")
        zstd --quiet -T0 "-$ZSTD_LEVEL" --rm "$tmp/layer.tar" -o "$tmp/layer.tar.zst"
        mkdir -p "$LAYER_STORE"
        mv "$tmp/layer.tar.zst" "$base.tar.zst"
        # Last, and by a rename: if the description exists, the layer is complete.
        jq -n --arg diff "sha256:$diff" --arg name "$name" \
            --arg digest "sha256:$(sha256 "$base.tar.zst")" --argjson size "$(stat -c %s "$base.tar.zst")" \
            '{name: $name, diff: $diff, digest: $digest, size: $size}' >"$tmp/layer.json"
        mv "$tmp/layer.json" "$base.json"
        rm -rf "$tmp"
    fi
    LAYERS+=("$base")
}

# archive CONFIG REFERENCE: writes $IMAGE_OUT, an OCI layout in one tar, from the layers so far. CONFIG is a
# file with the image configuration's `config` object.
archive() {
    local config=$1 reference=$2 layout=$IMAGE_WORK/layout blobs created digest size descriptor part
    blobs=$layout/blobs/sha256
    mkdir -p "$blobs"
    created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
    for part in "${LAYERS[@]}"; do
        digest=$(jq -r .digest "$part.json")
        ln -f "$part.tar.zst" "$blobs/${digest#sha256:}" 2>/dev/null || cp "$part.tar.zst" "$blobs/${digest#sha256:}"
    done

    jq -c -s --slurpfile config "$config" --arg arch "$IMAGE_ARCH" --arg created "$created" '{
        created: $created, architecture: $arch, os: "linux", config: $config[0],
        rootfs: {type: "layers", diff_ids: map(.diff)},
        history: map({created: $created, created_by: ("layer " + .name)})
    }' "${LAYERS[@]/%/.json}" >"$IMAGE_WORK/config.json"
    descriptor=$(put_blob "$blobs" "$IMAGE_WORK/config.json" application/vnd.oci.image.config.v1+json)

    jq -c -s --argjson config "$descriptor" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config,
        layers: map({mediaType: "application/vnd.oci.image.layer.v1.tar+zstd", digest, size})
    }' "${LAYERS[@]/%/.json}" >"$IMAGE_WORK/manifest.json"
    descriptor=$(put_blob "$blobs" "$IMAGE_WORK/manifest.json" application/vnd.oci.image.manifest.v1+json)

    # containerd names an imported image by its own annotation, other tools by the standard one.
    jq -c -n --argjson manifest "$descriptor" --arg arch "$IMAGE_ARCH" --arg reference "$reference" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
        manifests: [$manifest + {
            platform: {os: "linux", architecture: $arch},
            annotations: {
                "org.opencontainers.image.ref.name": ($reference | split(":") | last),
                "io.containerd.image.name": $reference
            }
        }]
    }' >"$layout/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"

    normal_tar -C "$layout" -cf "$IMAGE_WORK/image.tar" oci-layout index.json blobs
    mv "$IMAGE_WORK/image.tar" "$IMAGE_OUT"
    size=$(stat -c %s "$IMAGE_OUT")
    say "image $IMAGE_NAME: $((size / 1000000)) MB in $IMAGE_OUT"
}

# Layers and archives of this image that its current version does not use.
forget_old() {
    local file part
    for file in "$LAYER_STORE/$IMAGE_NAME"-*; do
        [ -e "$file" ] || continue
        part=${file%.json} part=${part%.tar.zst}
        [[ " ${LAYERS[*]} " == *" $part "* ]] || rm -f "$file"
    done
    for file in "$FSA_CACHE/images/$IMAGE_NAME"-*.oci.tar; do
        [ "$file" = "$IMAGE_OUT" ] || rm -f "$file"
    done
}

put_blob() {
    local digest size
    digest=$(sha256 "$2")
    size=$(stat -c %s "$2")
    cp "$2" "$1/$digest"
    jq -c -n --arg type "$3" --arg digest "sha256:$digest" --argjson size "$size" \
        '{mediaType: $type, digest: $digest, size: $size}'
}

# The version of the workspace, for the references of images of our own programs.
workspace_version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml" | head -n 1; }

sha256() { sha256sum -- "$1" | cut -d ' ' -f 1; }

# inputs_key PART...: one short hash of texts, and of files and folders with their paths below the checkout.
inputs_key() {
    local part
    for part in "$@"; do
        if [ -e "$part" ]; then
            (cd "$ROOT" && find "${part#"$ROOT/"}" -type f | LC_ALL=C sort |
                while read -r path; do printf '%s %s\n' "$path" "$(sha256 "$path")"; done)
        else
            printf '%s\n' "$part"
        fi
    done | sha256sum | cut -c 1-12
}
