# shellcheck shell=bash
# The layers of the runtime image `web`, bottom first: Debian, Node, Claude Code. The one that changes most is
# on top. Sourced by scripts/build-image.sh; versions come from versions.env.

# shellcheck disable=SC2153  # ROOT comes from scripts/lib.sh
here=$ROOT/images/web
# shellcheck source=images/web/versions.env
. "$here/versions.env"
export SOURCE_DATE_EPOCH

case $IMAGE_ARCH in
amd64) npm_arch=x64 ;;
arm64) npm_arch=arm64 ;;
esac

# The machine's own sources for the image's Debian release, one-line style, from apt itself: whatever mirror,
# proxy or file format it is configured with, only what apt knows to be Debian's.
debian_sources() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg sources
    [ -r $keyring ] || die "Debian's archive keys are missing: install debian-archive-keyring"
    # shellcheck disable=SC2016  # apt's own placeholders
    sources=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v suite="$DEBIAN_SUITE" -v key=$keyring '
            $1 ~ /^Debian/ && $3 == "main" && ($2 == suite || $2 == suite "-updates" || $2 == suite "-security") {
                print "deb [signed-by=" key "] " $4 " " $2 " main" }' | sort -u)
    [ -n "$sources" ] || die "apt knows no Debian source for $DEBIAN_SUITE: check /etc/apt/sources.list*, then run apt-get update"
    printf '%s\n' "$sources"
}

make_base() {
    local out=$1 mode=root options=() line packages
    if [ "$(id -u)" -ne 0 ]; then
        mode=unshare
        if ! command -v newuidmap >/dev/null || ! grep -qs "^$(id -un):" /etc/subuid; then
            die "building an image as a plain user needs the package uidmap and a line for $(id -un) in /etc/subuid and /etc/subgid"
        fi
        chmod 711 "$IMAGE_WORK" "${out%/*}"
    fi
    # mmdebstrap starts from apt's defaults, so the machine's proxy and TLS settings are passed on.
    while read -r line; do
        options+=("--aptopt=$line")
    done < <(apt-config dump | grep -E '^Acquire::(https?::(Proxy|CaInfo|CaPath|Timeout)|Retries|Check-(Valid-Until|Date))' || true)
    packages=$(sed 's/#.*//' "$here/packages" | tr -s ' \n' ',' | sed 's/^,//; s/,$//')

    # shellcheck disable=SC2016  # $1 is the hook's own
    debian_sources | TMPDIR=$IMAGE_WORK mmdebstrap --quiet --mode=$mode --variant=minbase --format=tar \
        --skip=check/empty,output/dev \
        --aptopt='Apt::Install-Recommends "false"' "${options[@]}" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/bin/*-lto-dump-*' \
        --include="$packages" \
        --customize-hook="copy-in '$here/skel' /tmp" \
        --customize-hook="upload '$here/finish-base.sh' /tmp/finish-base.sh" \
        --customize-hook='chroot "$1" sh -eu /tmp/finish-base.sh' \
        "$DEBIAN_SUITE" "$out" - >&2
    [ -s "$out" ] || die "mmdebstrap made no base system; its messages are above"
}

# Unpacks one package of the npm registry, without its dependencies or scripts.
npm_unpack() {
    local spec=$1 to=$2 pack
    pack=$(cd "$IMAGE_WORK" && fsa_npm pack --silent "$spec" | tail -n 1) ||
        die "npm could not fetch $spec: check the version in images/web/versions.env and npm's registry and proxy settings"
    mkdir -p "$to"
    tar -xzf "$IMAGE_WORK/$pack" -C "$to" --strip-components=1 --no-same-owner
    rm -f "$IMAGE_WORK/$pack"
}

# The npm of the image, so that the installed packages fit its Node and not this machine's.
image_npm() {
    local root=$1
    shift
    PATH="$IMAGE_NODE/usr/local/bin:$PATH" npm_config_cache="$FSA_CACHE/npm" npm_config_update_notifier=false \
        npm_config_fund=false npm_config_audit=false npm_config_loglevel=error \
        "$IMAGE_NODE/usr/local/bin/node" "$IMAGE_NODE/usr/local/lib/node_modules/npm/bin/npm-cli.js" \
        --prefix "$root/usr/local" --global "$@" >&2
}

stage_node() {
    IMAGE_NODE=$IMAGE_WORK/node
    [ ! -e "$IMAGE_NODE" ] || return 0
    local at=$IMAGE_NODE/usr/local
    # /dev is what mmdebstrap leaves out with its device nodes, which a plain user could not unpack.
    mkdir -p "$at/bin" "$at/lib/node_modules" "$IMAGE_NODE/dev"
    npm_unpack "node-linux-$npm_arch@$NODE_VERSION" "$IMAGE_WORK/node-package"
    mv "$IMAGE_WORK/node-package/bin/node" "$at/bin/node"
    # Headers, for native modules; the OpenSSL tables of other processors are the bulk of them.
    mv "$IMAGE_WORK/node-package/include" "$at/include"
    find "$at/include/node/openssl/archs" -mindepth 1 -maxdepth 1 ! -name "linux-$(uname -m)*" -exec rm -rf {} +
    rm -rf "$IMAGE_WORK/node-package"
    npm_unpack "npm@$NPM_VERSION" "$at/lib/node_modules/npm"
    ln -s ../lib/node_modules/npm/bin/npm-cli.js "$at/bin/npm"
    ln -s ../lib/node_modules/npm/bin/npx-cli.js "$at/bin/npx"
    chmod 755 "$at/bin/node" "$at/lib/node_modules/npm/bin/"*-cli.js
    rm -rf "$at/lib/node_modules/npm/"{docs,man}
}

make_node() {
    stage_node
    image_npm "$IMAGE_NODE" install "pnpm@$PNPM_VERSION"
    chmod -R u=rwX,go=rX "$IMAGE_NODE"
    normal_tar -C "$IMAGE_NODE" -cf "$1" dev usr
}

make_claude() {
    local stage=$IMAGE_WORK/claude
    stage_node
    image_npm "$stage" install "@anthropic-ai/claude-code@$CLAUDE_CODE_VERSION"
    chmod -R u=rwX,go=rX "$stage"
    normal_tar -C "$stage" -cf "$1" usr
}

layer base make_base "$(declare -f debian_sources)" "$here/packages" "$here/skel" "$here/finish-base.sh" \
    "suite=$DEBIAN_SUITE" "revision=$IMAGE_REVISION" "epoch=$SOURCE_DATE_EPOCH"
layer node make_node "$(declare -f stage_node npm_unpack image_npm)" \
    "node=$NODE_VERSION" "npm=$NPM_VERSION" "pnpm=$PNPM_VERSION" "epoch=$SOURCE_DATE_EPOCH"
layer claude make_claude "$(declare -f image_npm)" "claude=$CLAUDE_CODE_VERSION" "epoch=$SOURCE_DATE_EPOCH"
archive "$here/config.json" localhost/fsa-web:latest
