#!/usr/bin/env bash
# images.sh: makes the cluster's own images from what is on this machine, as OCI archives in the cache: pause and
# CoreDNS from our build, `tools` (a shell, curl, Python) and `postgres` from Debian's packages.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

programs
# Debian's own programs, not others of the same name that come before them.
PATH=/usr/bin:/usr/sbin
[ ! -e "$IMAGES/done" ] || exit 0
say "making ${IMAGES##*/}"
rm -rf "$IMAGES" && mkdir -p "$IMAGES"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

# with_libraries ROOTFS PROGRAM…: copies programs of this machine with the libraries that they load.
with_libraries() {
    local rootfs=$1 file
    shift
    for file in "$@" $(ldd "$@" 2>/dev/null | grep -o '/[^ :)]*' | sort -u); do
        mkdir -p "$rootfs$(dirname "$file")"
        cp -L "$file" "$rootfs$file"
    done
}
# A file system with Debian's names for the merged folders and a user or two.
base() {
    mkdir -p "$1"/{usr/bin,usr/lib,usr/lib64,usr/sbin,etc,tmp,var/tmp,run,root}
    ln -s usr/bin "$1/bin" && ln -s usr/lib "$1/lib" && ln -s usr/lib64 "$1/lib64" && ln -s usr/sbin "$1/sbin"
    chmod 1777 "$1/tmp" "$1/var/tmp"
    printf 'root:x:0:0::/root:/bin/bash\npostgres:x:999:999::/tmp:/bin/bash\nuser:x:1000:1000::/tmp:/bin/bash\n' >"$1/etc/passwd"
    printf 'root:x:0:\npostgres:x:999:\nuser:x:1000:\n' >"$1/etc/group"
}
# named ROOTFS NAME…: Debian's programs by name, whatever else comes first in PATH; and the name again where it is a
# link to another.
named() {
    local rootfs=$1 name path real
    shift
    for name in "$@"; do
        path=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin type -P "$name") || continue
        real=$(realpath "$path")
        with_libraries "$rootfs" "$real"
        [ "$rootfs/usr/bin/$name" -ef "$rootfs$real" ] || ln -s "$real" "$rootfs/usr/bin/$name"
    done
}

mkdir "$made/pause" "$made/coredns"
cp "$OWN/pause" "$made/pause/pause"
"$HERE/image-of.sh" "$made/pause" "$IMAGES/pause.tar" '{"Entrypoint":["/pause"],"User":"65535:65535"}'
cp "$KUBERNETES/coredns" "$made/coredns/coredns"
"$HERE/image-of.sh" "$made/coredns" "$IMAGES/coredns.tar" '{"Entrypoint":["/coredns"]}'

shell=(bash sh cat ls sleep env id echo mkdir rm cp mv chmod touch head tail wc date hostname seq tee dd sort timeout grep sed
    awk find tar)
base "$made/tools"
named "$made/tools" "${shell[@]}" curl getent python3
library=$(/usr/bin/python3 -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')
mkdir -p "$made/tools$library"
tar -C "$library" --exclude=./test --exclude=./idlelib --exclude=./lib2to3 --exclude=__pycache__ --exclude='./config-*' -cf - . |
    tar -C "$made/tools$library" -xf -
"$HERE/image-of.sh" "$made/tools" "$IMAGES/tools.tar" '{"Cmd":["/usr/bin/bash"],"Env":["PATH=/usr/bin:/usr/sbin"]}'

server=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 | sort -V | tail -n 1)
share=/usr/share/postgresql/${server##*/}
base "$made/postgres"
named "$made/postgres" "${shell[@]}"
# Without the compiler for queries, that is half of the whole.
mapfile -t modules < <(find "$server/lib" -name '*.so' ! -name 'llvmjit*')
with_libraries "$made/postgres" "$server"/bin/{initdb,postgres,pg_ctl,psql,pg_isready,pg_dump,pg_restore} "${modules[@]}"
mkdir -p "$made/postgres$share" "$made/postgres/usr/share/zoneinfo"
cp -a "$share/." "$made/postgres$share/"
cp -a /usr/share/zoneinfo/Etc "$made/postgres/usr/share/zoneinfo/"
ln -s Etc/UTC "$made/postgres/usr/share/zoneinfo/UTC"
"$HERE/image-of.sh" "$made/postgres" "$IMAGES/postgres.tar" \
    "{\"StopSignal\":\"SIGINT\",\"Cmd\":[\"/usr/bin/bash\"],\"User\":\"999:999\",\"Env\":[\"PATH=$server/bin:/usr/bin:/usr/sbin\"]}"
touch "$IMAGES/done"
