#!/usr/bin/env bash
# check.sh DIR: shows that a running cluster does what tests rely on: imported images, names, services, volumes,
# exec, port-forward, the way from the machine and back, network policies. Leaves nothing in the cluster.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
need_up
space=fsa-check
children=()
finish() {
    [ ${#children[@]} -eq 0 ] || kill "${children[@]}" 2>/dev/null || true
    kubectl delete namespace $space --ignore-not-found --wait --timeout 300s --request-timeout 0 >/dev/null || warn "the namespace $space is still there"
}
trap finish EXIT
fetch() { curl --silent --show-error --fail --max-time 3 "$@"; }
# What a pod gets from an address: the status of HTTP, or 000 where there is no answer.
from_pod() { kubectl -n $space exec other -- curl --silent --insecure --output /dev/null --max-time 2 --write-out '%{http_code}' "$1" 2>/dev/null || true; }
gets() { [ "$(from_pod "$1")" = "$2" ]; }

kubectl apply -f "$HERE/manifests/check.yaml" >/dev/null
kubectl -n $space rollout status deployment/web --timeout=300s --request-timeout 0 >/dev/null
kubectl -n $space wait --for=condition=Ready --timeout=300s --request-timeout 0 pod/other >/dev/null
say "pods run restricted, from imported images, with a volume that is theirs"

pod=$(kubectl -n $space get pod -l app=web -o 'jsonpath={.items[0].status.podIP}')
service=$(kubectl -n $space get service web -o 'jsonpath={.spec.clusterIP}')
[ "$(fetch "http://$pod:3000")" = kept ] || die "the machine does not reach the pod"
[ "$(fetch "http://$service")" = kept ] || die "the machine does not reach the service"
exec 6< <(exec "$DIR/kubectl" -n $space port-forward deploy/web :3000 --address 127.0.0.1 2>&1)
children+=($!)
read -r -t 10 -u 6 line || die "port-forward did not begin"
port=${line#*127.0.0.1:} port=${port%% *}
[ "$(fetch "http://127.0.0.1:$port")" = kept ] || die "port-forward does not carry"
say "reached from the machine: pod, service, port-forward"

# On a free port, which the server says first. Not HTTPServer, which asks for the name of its address.
serve='import http.server as h, socketserver, sys
s = socketserver.ThreadingTCPServer((sys.argv[1], 0), h.BaseHTTPRequestHandler)
print(s.server_address[1], flush=True)
s.serve_forever()'
exec 5< <(exec /usr/bin/python3 -c "$serve" "$OUTSIDE_ADDRESS" 2>/dev/null)
children+=($!)
read -r -t 10 -u 5 outside || die "no server on $OUTSIDE_ADDRESS"
exec 4< <(exec nsenter -t "$(cat "$DIR/init.pid")" -n -- /usr/bin/python3 -c "$serve" 169.254.169.254 2>/dev/null)
children+=($!)
read -r -t 10 -u 4 metadata || die "no server on 169.254.169.254"
# 501 is this server's answer to any method, 200 the pod's, and the API server has both.
gets "http://web/" 200 || die "a pod does not reach a service by its name"
gets "http://$pod:3000/" 200 || die "a pod does not reach its neighbor"
gets "http://outside.example:$outside/" 501 || die "a pod does not reach the outside"
gets "http://169.254.169.254:$metadata/" 501 || die "a pod does not reach the node before a policy forbids it"
gets https://kubernetes.default/version 200 || die "a pod does not reach the API server"

kubectl apply -f - >/dev/null <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other, namespace: $space}
spec:
  podSelector: {matchLabels: {app: other}}
  policyTypes: [Ingress, Egress]
  egress:
    - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
      ports: [{port: 53, protocol: UDP}]
    - to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 169.254.0.0/16]}}]
END
within 300 "the policy's effect" gets "http://$pod:3000/" 000
gets "http://web/" 000 || die "the policy does not hold for services"
gets "http://169.254.169.254:$metadata/" 000 || die "the policy does not hold for the metadata address"
gets https://kubernetes.default/version 000 || die "the policy does not hold for the API server"
gets "http://outside.example:$outside/" 501 || die "the policy forbids what it allows"
say "policies are enforced"
