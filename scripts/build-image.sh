#!/usr/bin/env bash
# build-image.sh [--print] [NAME]: builds images/NAME (default: web) as an OCI archive, without Docker, and
# names it $FSA_CACHE/images/NAME.oci.tar. The archive's own name has a hash of its definition, so it is built
# once: what is there is used. With --print nothing is built; the path of the current archive is printed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

print=
if [ "${1:-}" = --print ]; then
    print=1
    shift
fi
IMAGE_NAME=${1:-web}
[ -f "$ROOT/images/$IMAGE_NAME/build.sh" ] || die "there is no image named $IMAGE_NAME: images/ has $(cd "$ROOT/images" && echo */)"
# shellcheck source=images/lib.sh
. "$ROOT/images/lib.sh"

case $(uname -m) in
x86_64) IMAGE_ARCH=amd64 ;;
aarch64) IMAGE_ARCH=arm64 ;;
*) die "images can be built on x86_64 and aarch64; this machine is $(uname -m)" ;;
esac
store=$FSA_CACHE/images
parts=("$IMAGE_ARCH" "$ROOT/images/$IMAGE_NAME" "$ROOT/images/lib.sh")
# An image of a program that is built here is another one with each build.
if [ "$IMAGE_NAME" = sandboxd ]; then
    program=$CARGO_TARGET_DIR/$(host_target)/release/fsa-sandboxd
    [ -x "$program" ] || build_sandboxd
    parts+=("program=$(sha256 "$program")")
fi
IMAGE_KEY=$(inputs_key "${parts[@]}")
IMAGE_OUT=$store/$IMAGE_NAME-$IMAGE_KEY.oci.tar
current=$store/$IMAGE_NAME.oci.tar

if [ -n "$print" ]; then
    echo "$current"
    exit
fi
mkdir -p "$store"
# One build at a time; the second then finds what the first made.
exec 9>"$store/.lock"
flock -n 9 || {
    say "another build of an image is under way; waiting for it"
    flock 9
}
if [ ! -s "$IMAGE_OUT" ]; then
    # Not below /tmp: that may be in memory, or mounted nodev and noexec, and the image is a gigabyte.
    IMAGE_WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/fsa-image.XXXXXX")
    trap 'rm -rf "$IMAGE_WORK"' EXIT
    export IMAGE_NAME IMAGE_KEY IMAGE_OUT IMAGE_ARCH IMAGE_WORK
    # shellcheck disable=SC1090
    . "$ROOT/images/$IMAGE_NAME/build.sh"
fi
# A relative link, so that the cache may be moved or mounted elsewhere.
ln -sfn "${IMAGE_OUT##*/}" "$current.new"
mv -fT "$current.new" "$current"
# Only after a build, when the layers in use are known, and when nobody is led to the old archive any more.
[ ${#LAYERS[@]} -eq 0 ] || forget_old
