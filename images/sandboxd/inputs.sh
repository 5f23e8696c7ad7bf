# shellcheck shell=bash
# Input of this image beside this folder: the program. Sourced by scripts/build-image.sh.

program=$CARGO_TARGET_DIR/$(host_target)/release/fsa-sandboxd
[ -x "$program" ] || build_sandboxd release
# shellcheck disable=SC2034  # read by scripts/build-image.sh
IMAGE_INPUTS=("$program")
