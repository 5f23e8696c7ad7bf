# shellcheck shell=bash
# Functions and variables that the scripts of the test cluster share: paths, addresses, starting a part, kubectl.
# Sourced, never run.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
HERE=$ROOT/tests/cluster
# Debian's Go is too old; the archive from go.dev goes here.
[ ! -d /usr/local/go/bin ] || PATH=$PATH:/usr/local/go/bin
export PATH
# shellcheck disable=SC2034  # used by the scripts that source this
NODE=fsa-node

# cluster_dir DIR: the absolute path of a cluster's folder, in $DIR.
cluster_dir() {
    [ -n "${1:-}" ] || die "usage: ${0##*/} DIR; DIR is the folder of the cluster"
    DIR=$(realpath -m -- "$1")
    case $DIR in /tmp/* | /var/tmp/* | "$HOME"/* | "$ROOT"/* | /dev/shm/*) ;; *) die "a cluster's folder is removed as a whole at the end, so it must be below a folder for temporary things, the home or this checkout; $DIR is not" ;; esac
}

# The programs, by the keys of what they are made from. Two entries, so that a change of our own small programs
# does not link Kubernetes again.
hash_of() { (cd "$HERE" && find "$@" -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum | cut -c 1-16); }
# shellcheck disable=SC2034  # used by the scripts that source this
programs() {
    KUBERNETES=$FSA_CACHE/cluster/kubernetes-$(hash_of go.mod go.sum cmd/kubernetes cmd/coredns)
    OWN=$FSA_CACHE/cluster/own-$(hash_of go.mod go.sum cmd/warden cmd/pause cmd/standin)
    KWOK=$FSA_CACHE/cluster/kwok-$(hash_of kwok)
    HELM=$FSA_CACHE/cluster/helm-$(hash_of helm)
    INGRESS=$FSA_CACHE/cluster/ingress-$(hash_of ingress)
    GATEWAY=$FSA_CACHE/cluster/gateway-$(hash_of gateway)
    IMAGES=$FSA_CACHE/cluster/images-$(hash_of go.mod go.sum cmd/coredns cmd/pause image-of.sh images.sh)
}

# addresses SLOT: the same list as in cmd/warden/addresses.go.
# shellcheck disable=SC2034  # used by the scripts that source this
addresses() {
    NODE_ADDRESS=10.127.$1.2 MACHINE_ADDRESS=10.127.$1.1 OUTSIDE_ADDRESS=203.0.113.$(($1 + 1))
    PODS=10.$((128 + $1)).0.0/16 NODE_PODS=10.$((128 + $1)).0.0/24 BRIDGE_ADDRESS=10.$((128 + $1)).0.1
    SERVICES=10.$((192 + $1)).0.0/16 DNS_ADDRESS=10.$((192 + $1)).0.10
    CGROUP=fsa-cluster-$1
}

is_up() { "$OWN/warden" control "$DIR" status >/dev/null 2>&1; }
need_up() {
    programs
    # The programs that it was started with, even if the sources have changed since.
    # shellcheck disable=SC1091  # written by up.sh
    [ ! -e "$DIR/programs" ] || . "$DIR/programs"
    is_up || die "no cluster runs in $DIR: start one with tests/cluster/up.sh $DIR"
    addresses "$(cat "$DIR/slot")"
}

# inside COMMAND…: runs it in the cluster's namespaces, with the machine's files.
inside() { nsenter -t "$(cat "$DIR/init.pid")" -m -n -p -i -u -- "$@"; }
kubectl() { "$DIR/kubectl" --request-timeout 120s "$@"; }

# part NAME: takes from standard input the script of a part, that ends in `exec` of its program.
part() {
    mkdir -p "$DIR/parts" "$DIR/logs"
    { printf '#!/usr/bin/env bash\nset -eu\n' && cat; } >"$DIR/parts/.$1"
    chmod 755 "$DIR/parts/.$1"
    mv "$DIR/parts/.$1" "$DIR/parts/$1"
}
start_part() { "$OWN/warden" control "$DIR" start "$1" >/dev/null; }
stop_part() { "$OWN/warden" control "$DIR" stop "$1"; }

# within SECONDS WHAT COMMAND…: repeats the command until it succeeds, with a growing pause, since most servers
# send no notification when they are ready.
within() {
    local until=$(($(date +%s) + $1)) what=$2 pause=5
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$until" ] || {
            warn "state of the parts: $("$OWN/warden" control "$DIR" status | tr '\n' ';')"
            die "$what: timeout; see the logs in $DIR/logs"
        }
        sleep "0.$(printf %02d $pause)"
        [ $pause -ge 50 ] || pause=$((pause + 5))
    done
}
