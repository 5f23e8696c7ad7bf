#!/usr/bin/env bash
# install-packages.sh GROUP...: installs the packages that are missing on this machine. If none is missing, it queries
# dpkg once and uses no network.
#   run    what `fsa serve` and building it need         image  what `make image` needs
#   test   what `make test` needs on top of both         bench  what `make bench` needs on top of `run` and `image`
#   cluster  what runs in the test cluster; building it needs Go too, which Debian has too old
#   browser  what the stories of the web page need       dev  what `make dev` needs on top of `run` and `image`
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

declare -A PACKAGES=(
    # The runtime and its network; PostgreSQL for the control plane and the projects; storage on btrfs; what cargo's build scripts call.
    [run]="runc nftables iproute2 uidmap passt postgresql btrfs-progs zstd git ca-certificates curl gcc libc6-dev make rust"
    # npm fetches Node and Claude Code for the image, and runs on any version of Node.
    [image]="mmdebstrap debian-archive-keyring zstd jq nodejs npm"
    # skopeo reads the image as others would; pip fetches the wheels of the tests' applications.
    [test]="shellcheck skopeo restic python3 pip jq procps rust-lint"
    # With a font, for the screenshots.
    [browser]="chromium fonts-dejavu-core"
    # `make dev` watches the sources with inotifywait.
    [dev]="inotify-tools"
    # The gateway is measured beside nginx, both with wrk.
    [bench]="nginx-light wrk"
    # Programs of the test cluster that are not built from source: conntrack and socat are called by its components, nginx
    # with its Lua packages is the ingress controller.
    [cluster]="etcd-server containerd runc containernetworking-plugins iptables nftables iproute2 postgresql openssl skopeo jq conntrack nginx-light
        libnginx-mod-http-lua libnginx-mod-http-ndk libnginx-mod-http-headers-more-filter libnginx-mod-http-set-misc
        lua-resty-core lua-resty-lrucache lua-cjson lua-nginx-cookie lua-nginx-dns lua-nginx-string"
)

rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")

rust_is_there() {
    local have
    have=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) && [ -n "$have" ] && version_at_least "$have" "$rust_version"
}

postgresql_is_there() {
    # Any server from version 14, of any packager.
    compgen -G '/usr/lib/postgresql/1[4-9]/bin/initdb' >/dev/null ||
        compgen -G '/usr/lib/postgresql/[2-9][0-9]/bin/initdb' >/dev/null
}

# Whether an entry of the list is installed. Entries that are not packages may be installed in other ways.
is_there() {
    case $1 in
    rust) rust_is_there ;;
    # Run the program: rustup has a proxy of each name, also if the component is not installed.
    rust-lint) cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1 ;;
    postgresql) postgresql_is_there ;;
    nodejs) command -v node >/dev/null ;;
    npm) command -v npm >/dev/null ;;
    pip) [ -n "$(compgen -G '/usr/lib/python3/dist-packages/pip')" ] || python3 -m pip --version >/dev/null 2>&1 ;;
    *) grep -qxF "$1" <<<"$have" ;;
    esac
}

# Debian's packages of a Rust that is new enough. A stable release has an old version, and a newer one for building
# browsers under other names.
debian_rust() {
    local name version
    for name in cargo cargo-web; do
        version=$(apt-cache policy "$name" | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
        if [ -z "$version" ] || ! version_at_least "$version" "$rust_version"; then
            continue
        elif [ "$name" = cargo ]; then
            echo cargo rustc rustfmt rust-clippy
        else
            echo cargo-web rustc-web rustfmt-web rust-web-clippy
        fi
        return
    done
    die "Rust $rust_version or later is needed, and this Debian has none. Install it with rustup (https://rustup.rs), then try again."
}

# Installs the two entries of the list that are not packages. apt's lists must be up to date.
install_rust() {
    local name names=()
    if command -v rustup >/dev/null; then
        if rust_is_there; then
            rustup component add clippy rustfmt >&2
        else
            say "Rust $rust_version or later is needed: asking rustup for the stable one"
            rustup toolchain install stable --profile minimal --component clippy,rustfmt >&2
            rustup default stable >&2
        fi
        rust_is_there || die "rustup could not provide Rust $rust_version; its messages are above"
    else
        read -ra names < <(debian_rust)
        [ ${#names[@]} -gt 0 ] || exit 1
        for name in "${names[@]}"; do
            missing+=("$name")
        done
    fi
}

[ $# -gt 0 ] || die "usage: install-packages.sh GROUP...; the groups are ${!PACKAGES[*]}"
requested=()
for group in "$@"; do
    [ -n "${PACKAGES[$group]:-}" ] || die "no group is named $group; the groups are ${!PACKAGES[*]}"
    read -d '' -ra names <<<"${PACKAGES[$group]}" || true
    requested+=("${names[@]}")
done
command -v dpkg-query >/dev/null || die "this is not a Debian machine. Install yourself what has these names there: ${requested[*]}"
have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
missing=() need_rust=
for name in "${requested[@]}"; do
    is_there "$name" && continue
    case $name in rust | rust-lint) need_rust=1 ;; pip) missing+=(python3-pip) ;; *) missing+=("$name") ;; esac
done
[ ${#missing[@]} -gt 0 ] || [ -n "$need_rust" ] || exit 0

as_root apt-get -qq update </dev/null >&2 ||
    die "apt-get update failed: check the network and /etc/apt/sources.list*, or install these yourself: ${missing[*]}"
[ -z "$need_rust" ] || install_rust
[ ${#missing[@]} -gt 0 ] || exit 0
if [[ " ${missing[*]} " == *" postgresql "* ]]; then
    # For the projects' databases, where this Debian has it. PostgreSQL's package has the contributed extensions.
    pgvector=$(apt-cache depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1-pgvector/p')
    [ -n "$pgvector" ] && apt-cache show "$pgvector" >/dev/null 2>&1 && missing+=("$pgvector")
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
say "installing ${missing[*]}"

# fsa runs its own servers, so the services of these packages must not start (Debian's PostgreSQL cluster, nginx on port
# 80). Debian calls policy-rc.d; an existing one is kept.
if [[ " ${missing[*]} " == *" postgresql "* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    as_root mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
    as_root chmod 755 /usr/sbin/policy-rc.d
fi
log=$(mktemp)
if ! as_root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get -qq install --yes --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "${missing[@]}" </dev/null >"$log" 2>&1; then
    cat "$log" >&2
    die "apt-get could not install ${missing[*]}; its messages are above"
fi
rm -f "$log"
if [[ " ${missing[*]} " == *" nginx-light "* ]] && [ -d /run/systemd/system ]; then
    as_root systemctl disable --quiet nginx.service || warn "nginx.service would start at the next boot: systemctl disable nginx"
fi
