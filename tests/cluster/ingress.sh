#!/usr/bin/env bash
# ingress.sh DIR start: the ingress-nginx controller on the node's ports 80 and 443, for Ingresses of the class `nginx`.
# ingress.sh DIR stop: ends it; the Ingresses stay.
#
# The controller and its template and Lua are ingress-nginx's own; nginx is Debian's, and
# ingress/lua has stand-ins for the Lua libraries that Debian lacks. It runs beside the node's other parts instead of in a pod.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
need_up

# The controller reads its own pod and its namespace's settings, so an idle pod takes its place.
manifest() {
    cat <<END
apiVersion: v1
kind: Namespace
metadata: {name: ingress-nginx}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ingress-nginx-controller, namespace: ingress-nginx}
data:
  use-http2: "false"
  worker-processes: "1"
  worker-shutdown-timeout: 1s
  # The controller sends the configuration of streams here and reads no response.
  http-snippet: "server { listen 127.0.0.1:10347; }"
---
apiVersion: v1
kind: Pod
metadata: {name: ingress-nginx-controller, namespace: ingress-nginx, labels: {app.kubernetes.io/name: ingress-nginx}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{name: stand-in, image: "fsa.test/pause:1", imagePullPolicy: Never}]
END
}

case ${2:-} in
start)
    manifest | kubectl apply --server-side -f - >&2
    # /etc and /run are the cluster's own.
    part ingress <<END
rm -rf /etc/nginx /etc/ingress-controller /run/nginx-ingress
mkdir -p /etc/ingress-controller/{ssl,auth,geoip,telemetry} /run/nginx-ingress/nginx
cp -r '$INGRESS/nginx' /etc/nginx
cp /usr/share/nginx/mime.types /etc/nginx/mime.types 2>/dev/null || printf 'types { text/html html; }\n' >/etc/nginx/mime.types
rm -f /etc/resolv.conf
echo 'nameserver $DNS_ADDRESS' >/etc/resolv.conf
export TMPDIR=/run/nginx-ingress NGINX_BINARY=/usr/sbin/nginx POD_NAME=ingress-nginx-controller POD_NAMESPACE=ingress-nginx
exec '$INGRESS/controller' --kubeconfig '$DIR/kubeconfigs/admin' --configmap ingress-nginx/ingress-nginx-controller \\
    --ingress-class nginx --update-status=false --enable-metrics=false --enable-annotation-validation=true \\
    --status-port 10346 --stream-port 10347 --profiler-port 10345 --healthz-port 10344 --healthz-host 127.0.0.1 --post-shutdown-grace-period 0
END
    start_part ingress
    within 300 "the ingress controller's start" inside curl --silent --fail --max-time 20 http://127.0.0.1:10344/healthz
    ;;
stop)
    stop_part ingress
    kubectl delete namespace ingress-nginx --wait=false >&2
    ;;
*) die "usage: ingress.sh DIR start|stop" ;;
esac
