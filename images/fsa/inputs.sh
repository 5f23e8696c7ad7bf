# shellcheck shell=bash
# Inputs of this image beside this folder: the two programs, and this machine's libraries that `fsa` was built against and
# certificate authorities. Sourced by scripts/build-image.sh.

program=$CARGO_TARGET_DIR/$IMAGE_BUILD/fsa
sandboxd=$CARGO_TARGET_DIR/$(host_target)/release/fsa-sandboxd
authorities=/etc/ssl/certs/ca-certificates.crt
for file in "$program" "$sandboxd" "$authorities"; do
    [ -r "$file" ] ||
        die "$file is missing: scripts/build.sh makes the programs, the Debian package ca-certificates has the authorities"
done
# With the dynamic linker among them, by the paths at which the program opens them.
mapfile -t libraries < <(ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }')
mapfile -t library_files < <(readlink -f "${libraries[@]}")
# shellcheck disable=SC2034  # read by scripts/build-image.sh
IMAGE_INPUTS=("$program" "$sandboxd" "$authorities" "${library_files[@]}")
