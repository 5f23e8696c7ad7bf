# shellcheck shell=bash
# The image that carries sandboxd into every pod of a cluster: the static program and nothing else, so it needs
# to know nothing of the image that it is copied into. Sourced by scripts/build-image.sh.

# shellcheck disable=SC2153  # ROOT comes from scripts/lib.sh
here=$ROOT/images/sandboxd
# shellcheck source=images/sandboxd/inputs.sh
. "$here/inputs.sh"
# A fixed moment, so that the same program gives the same digest.
SOURCE_DATE_EPOCH=1767225600
export SOURCE_DATE_EPOCH

make_program() {
    local stage=$IMAGE_WORK/program
    install -D "$program" "$stage/fsa-sandboxd"
    normal_tar -C "$stage" -cf "$1" fsa-sandboxd
}

layer program make_program "$program"
archive "$here/config.json" "docker.io/fullstackagent/sandboxd:$(workspace_version)"
