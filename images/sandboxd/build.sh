# shellcheck shell=bash
# The image that carries sandboxd into every pod of a cluster: the static program and nothing else, so it needs
# to know nothing of the image that it is copied into. Sourced by scripts/build-image.sh.

export SOURCE_DATE_EPOCH=1767225600
program=$CARGO_TARGET_DIR/$(host_target)/release/fsa-sandboxd
[ -x "$program" ] || build_sandboxd

make_program() {
    local root=$IMAGE_WORK/root
    mkdir -p "$root"
    install -m 0755 "$program" "$root/fsa-sandboxd"
    normal_tar -C "$root" -cf "$1" fsa-sandboxd
}

layer program make_program "program=$(sha256 "$program")"
printf '{"Entrypoint":["/fsa-sandboxd"],"User":"1000:1000"}' >"$IMAGE_WORK/image.json"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "${ROOT:?}/Cargo.toml" | head -n 1)
archive "$IMAGE_WORK/image.json" "docker.io/fullstackagent/sandboxd:$version"
