#!/usr/bin/env bash
# build.sh [kwok]: builds the programs and the images of the test cluster, once, into $FSA_CACHE/cluster.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

"$ROOT/scripts/install-packages.sh" cluster
mkdir -p "$FSA_CACHE/cluster"
# One build at a time: two would share the same cores.
exec 8>"$FSA_CACHE/cluster/lock"
flock -w 3000 8 || die "another build of the cluster's programs has gone on for 50 minutes"
programs
if [ ! -e "$KUBERNETES/done" ] || [ ! -e "$OWN/done" ] || [ ! -e "$HELM/done" ] || [ ! -e "$GATEWAY/done" ] ||
    [ ! -e "$INGRESS/done" ]; then
    have=$(go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p')
    version_at_least "${have:-0}" 1.24 || die "building the test cluster needs Go 1.24 or later; found ${have:-none}. Install it (https://go.dev/dl), then try again"
fi
# Without a version clients refuse to speak to the API server.
version=$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' "$HERE/go.mod")
minor=${version#v1.} minor=${minor%%.*}
stamp="-s -w -X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1"
stamp="$stamp -X k8s.io/component-base/version.gitMinor=$minor -X k8s.io/component-base/version.gitTreeState=clean"

# Without debug information, which -s removes at the end anyhow, compiling takes a tenth less.
build=(go build -buildvcs=false -trimpath "-gcflags=all=-dwarf=false")

# entry DIR MODULE PACKAGE…: static programs, so that they run in images as well.
entry() {
    local to=$1 module=$2
    shift 2
    rm -rf "$to" && mkdir -p "$to"
    say "building ${to##*/} (once; up to 10 minutes on 2 cores)"
    (cd "$module" && CGO_ENABLED=0 nice -n 19 timeout 3000 "${build[@]}" -ldflags "$stamp" -o "$to/" "$@" >&2)
}
if [ ! -e "$KUBERNETES/done" ]; then
    entry "$KUBERNETES" "$HERE" ./cmd/kubernetes ./cmd/coredns
    for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
        ln -s kubernetes "$KUBERNETES/$name"
    done
    touch "$KUBERNETES/done"
fi
if [ ! -e "$OWN/done" ]; then
    entry "$OWN" "$HERE" ./cmd/warden ./cmd/pause ./cmd/standin
    touch "$OWN/done"
fi
if [ ! -e "$HELM/done" ]; then
    (stamp="-s -w" && entry "$HELM" "$HERE/helm" helm.sh/helm/v3/cmd/helm)
    touch "$HELM/done"
fi
if [ ! -e "$GATEWAY/done" ]; then
    # Not a program: the module carries the definitions as files.
    rm -rf "$GATEWAY" && mkdir -p "$GATEWAY"
    module=$(cd "$HERE/gateway" && timeout 300 go mod download -json sigs.k8s.io/gateway-api | jq -r .Dir)
    for file in "$module"/config/crd/standard/*_{gatewayclasses,gateways,httproutes,referencegrants}.yaml; do
        echo --- && cat "$file"
    done >"$GATEWAY/crds.yaml"
    touch "$GATEWAY/done"
fi
if [ ! -e "$INGRESS/done" ]; then
    rm -rf "$INGRESS" "$INGRESS.src" && mkdir -p "$INGRESS"
    say "building ${INGRESS##*/} (once; 2 minutes on 2 cores)"
    module=$(cd "$HERE/ingress" && timeout 300 go mod download -json k8s.io/ingress-nginx | jq -r .Dir)
    cp -r "$module" "$INGRESS.src" && chmod -R u+w "$INGRESS.src"
    # Its temporary files go where each cluster has its own.
    grep -rlF /tmp/nginx "$INGRESS.src"/{cmd,internal,rootfs} | xargs sed -i 's|/tmp/nginx|/run/nginx-ingress|g'
    (cd "$INGRESS.src" && GOWORK=off CGO_ENABLED=0 nice -n 19 timeout 3000 "${build[@]}" -ldflags '-s -w' \
        -o "$INGRESS/controller" ./cmd/nginx >&2)
    mv "$INGRESS.src/rootfs/etc/nginx" "$INGRESS/nginx" && rm -rf "$INGRESS.src"
    # For Debian's nginx: its modules and where Lua's are; no streams, which it is built without.
    modules=$(printf 'load_module /usr/lib/nginx/modules/%s.so;' ndk_http_module ngx_http_lua_module \
        ngx_http_headers_more_filter_module ngx_http_set_misc_module)
    sed -i -e "s|^pid .*|&\nuser root;\n$modules|" -e '/^stream {/,/^}/d' \
        -e 's|^    lua_package_path .*|&\n    lua_package_cpath "/usr/lib/'"$(uname -m)"'-linux-gnu/lua/5.1/?.so;;";|' \
        "$INGRESS/nginx/template/nginx.tmpl"
    cp -r "$HERE/ingress/lua/." "$INGRESS/nginx/lua/"
    touch "$INGRESS/done"
fi

if [ "${1:-}" = kwok ] && [ ! -e "$KWOK/done" ]; then
    entry "$KWOK" "$HERE/kwok" sigs.k8s.io/kwok/cmd/kwok
    # The stages of its simulated nodes and pods; the program contains none.
    stages=$(cd "$HERE/kwok" && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
    for file in "$stages"/{node/fast,node/heartbeat-with-lease,pod/fast}/*.yaml; do
        [ "${file##*/}" = kustomization.yaml ] || { echo --- && cat "$file"; }
    done >"$KWOK/stages.yaml"
    touch "$KWOK/done"
fi
"$HERE/images.sh"

# Remove what no checkout has used for a week.
touch -c "$KUBERNETES/done" "$OWN/done" "$KWOK/done" "$HELM/done" "$GATEWAY/done" "$INGRESS/done" \
    "$IMAGES/done"
for entry in "$FSA_CACHE"/cluster/*/; do
    [ -n "$(find "${entry}done" -mtime -7 2>/dev/null)" ] || rm -rf "$entry"
done
