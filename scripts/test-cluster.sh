#!/usr/bin/env bash
# test-cluster.sh: the Go unit tests of the test cluster's own programs.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/../tests/cluster/lib.sh"

cd "$HERE"
# With the flags of tests/cluster/build.sh, so that both compile the libraries once. Unit tests run in seconds.
CGO_ENABLED=0 timeout 600 go test -buildvcs=false -trimpath -gcflags=all=-dwarf=false ./cmd/standin ./cmd/warden
