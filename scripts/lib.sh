# shellcheck shell=bash
# Functions and variables that all scripts share: paths, messages, root, npm, cargo, background jobs.
# Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Cache of what is expensive to build and shared by checkouts: tools, images, npm's downloads.
FSA_CACHE=${FSA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fsa}
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
export FSA_CACHE CARGO_TARGET_DIR
# Our tools first; then cargo where rustup puts it, which a login shell would have added.
[ ! -d "$HOME/.cargo/bin" ] || PATH=$HOME/.cargo/bin:$PATH
PATH=$FSA_CACHE/tools/bin:$PATH
# Debian's folder of runc, nft and others, which is not in the PATH of plain users.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Runs a command as root: directly if we are root, else through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root and there is no sudo here; run as root: $*"
    fi
}

# version_at_least INSTALLED REQUIRED: dotted numbers, such as 1.95.0 and 1.90.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Background jobs. Each is a process group and writes to a file, which is shown if it fails. It stays in
# this session: the kernel compares nice values only within one (sched_autogroup).
declare -A JOB_PIDS=()
JOBS=

# job NAME COMMAND...: runs a command or a function beside this script. The caller's EXIT trap calls stop_jobs.
job() {
    local name=$1
    shift
    [ -n "$JOBS" ] || JOBS=$(mktemp -d "${TMPDIR:-/tmp}/fsa-jobs.XXXXXX")
    set -m
    (
        set +m
        "$@"
        echo "$SECONDS" >"$JOBS/$name.end"
    ) </dev/null >"$JOBS/$name.log" 2>&1 &
    set +m
    JOB_PIDS[$name]=$!
    echo "$SECONDS" >"$JOBS/$name.begin"
}

job_runs() { [ -n "${JOB_PIDS[$1]:-}" ] && jobs -rp | grep -qx "${JOB_PIDS[$1]}"; }

# finish_job NAME: waits for the job, once. If it failed, shows its output and ends the script.
finish_job() {
    local name=$1 pid=${JOB_PIDS[$1]:-}
    [ -n "$pid" ] || return 0
    ! job_runs "$name" || say "waiting for $name"
    if ! wait "$pid"; then
        unset "JOB_PIDS[$name]"
        cat "$JOBS/$name.log" >&2
        die "$name failed; its output is above"
    fi
    unset "JOB_PIDS[$name]"
    say "$name: done in $(($(cat "$JOBS/$name.end") - $(cat "$JOBS/$name.begin"))) s"
}

# Ends the script if a job has failed, before the long steps that run in parallel are done.
check_jobs() {
    local name
    for name in "${!JOB_PIDS[@]}"; do
        job_runs "$name" || finish_job "$name"
    done
}

# Stops the running jobs with their children, and waits for them.
stop_jobs() {
    local name
    for name in "${!JOB_PIDS[@]}"; do
        kill -TERM -- "-${JOB_PIDS[$name]}" 2>/dev/null || true
    done
    for name in "${!JOB_PIDS[@]}"; do
        wait "${JOB_PIDS[$name]}" 2>/dev/null || true
    done
    JOB_PIDS=()
    [ -z "$JOBS" ] || rm -rf "$JOBS"
}

# npm without prompts, with its downloads in our cache.
fsa_npm() {
    npm_config_cache="$FSA_CACHE/npm" npm_config_update_notifier=false npm_config_fund=false \
        npm_config_audit=false npm_config_yes=true npm_config_loglevel=error npm "$@"
}

# This machine's target. sandboxd is built with an explicit --target, so that the flags for a static binary do not apply
# to build scripts and macros.
host_target() { printf '%s-unknown-linux-gnu' "$(uname -m)"; }

# build_sandboxd release|debug: the release build, also for tests: it is small, and sandboxes run the same program there
# and elsewhere. The debug build is for development.
build_sandboxd() {
    local profile=$1
    [ "$profile" != debug ] || profile=dev
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --profile "$profile" --package fsa-sandboxd --target "$(host_target)"
}

# use_build release|debug [SANDBOXD_BUILD]: exports the paths of this build's programs and images for `fsa` and the
# tests. SANDBOXD_BUILD is release unless given.
use_build() {
    FSA_BIN=$CARGO_TARGET_DIR/$1/fsa
    FSA_SANDBOXD=$CARGO_TARGET_DIR/$(host_target)/${2:-release}/fsa-sandboxd
    FSA_WEB_IMAGE=$FSA_CACHE/images/web.oci.tar
    export FSA_BIN FSA_SANDBOXD FSA_WEB_IMAGE
}
