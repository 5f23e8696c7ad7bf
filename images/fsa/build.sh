# shellcheck shell=bash
# The image of the control plane, for running it as a pod: `fsa`, sandboxd, and of a system only what the two
# need. There is no shell and no package manager in it. Sourced by scripts/build-image.sh.
#
# The C library is this machine's, because the binary was built against it: a base from elsewhere could hold an
# older one.

# shellcheck disable=SC2153  # ROOT comes from scripts/lib.sh
here=$ROOT/images/fsa
# shellcheck source=images/fsa/inputs.sh
. "$here/inputs.sh"
# A fixed moment, so that the same programs give the same digests.
SOURCE_DATE_EPOCH=1767225600
export SOURCE_DATE_EPOCH

make_system() {
    local stage=$IMAGE_WORK/system library
    mkdir -p "$stage"/{etc/ssl/certs,tmp,data}
    cp "$here"/etc/* "$stage/etc/"
    cp "$authorities" "$stage$authorities"
    for library in "${libraries[@]}"; do
        install -D "$library" "$stage$library"
    done
    chmod -R u=rwX,go=rX "$stage"
    chmod 1777 "$stage/tmp" "$stage/data"
    normal_tar -C "$stage" -cf "$1" .
}

make_programs() {
    local stage=$IMAGE_WORK/programs
    # A debug build is mostly debug information, which has no use there.
    install -D --strip "$program" "$stage/usr/bin/fsa"
    install -D "$sandboxd" "$stage/usr/bin/fsa-sandboxd"
    normal_tar -C "$stage" -cf "$1" .
}

layer system make_system "$here/etc" "$authorities" "${library_files[@]}"
layer programs make_programs "$program" "$sandboxd"
archive "$here/config.json" "docker.io/fullstackagent/fsa:$(workspace_version)"
