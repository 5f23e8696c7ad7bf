#!/usr/bin/env bash
# build-image.sh [--print] [NAME]: builds images/NAME (default: web) as an OCI archive, without Docker, and
# names it $FSA_CACHE/images/NAME.oci.tar. The archive's own name has a hash of its definition, so it is built
# once. With --print nothing is built; the path of the current archive is printed.
# With IMAGE_BUILD=debug in its environment, `fsa` is taken from the debug build, and archive and layers are kept
# in $CARGO_TARGET_DIR/images: tests need no release build, and what they run is not shipped.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

print=
if [ "${1:-}" = --print ]; then
    print=1
    shift
fi
IMAGE_NAME=${1:-web}
[ -f "$ROOT/images/$IMAGE_NAME/build.sh" ] || die "no image is named $IMAGE_NAME: images/ has $(cd "$ROOT/images" && echo */)"
export IMAGE_BUILD=${IMAGE_BUILD:-release}
case $IMAGE_BUILD in
release) ;;
debug) FSA_CACHE=$CARGO_TARGET_DIR ;;
*) die "IMAGE_BUILD is release or debug, and not $IMAGE_BUILD" ;;
esac
# shellcheck source=images/lib.sh
. "$ROOT/images/lib.sh"

case $(uname -m) in
x86_64) IMAGE_ARCH=amd64 ;;
aarch64) IMAGE_ARCH=arm64 ;;
*) die "images can be built on x86_64 and aarch64; this machine is $(uname -m)" ;;
esac
store=$FSA_CACHE/images
IMAGE_INPUTS=()
if [ -z "$print" ] && [ -f "$ROOT/images/$IMAGE_NAME/inputs.sh" ]; then
    # shellcheck disable=SC1090
    . "$ROOT/images/$IMAGE_NAME/inputs.sh"
fi
IMAGE_KEY=$(inputs_key "$IMAGE_ARCH" "$ROOT/images/$IMAGE_NAME" "$ROOT/images/lib.sh" "${IMAGE_INPUTS[@]}")
IMAGE_OUT=$store/$IMAGE_NAME-$IMAGE_KEY.oci.tar
current=$store/$IMAGE_NAME.oci.tar

if [ -n "$print" ]; then
    echo "$current"
    exit
fi
mkdir -p "$store"
# One build at a time; the second then uses the result of the first.
exec 9>"$store/.lock"
flock -n 9 || {
    say "another build of an image is running; waiting for it"
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
# Only after a build, when the layers in use are known and the link no longer names the old archive.
[ ${#LAYERS[@]} -eq 0 ] || forget_old
