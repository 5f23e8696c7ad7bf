# shellcheck shell=bash
# The parts of the cluster as scripts for the warden, and the credentials that they share. Sourced by up.sh, with
# the addresses set. Every server binds an address of the cluster's own network namespace.

# Tokens instead of client certificates: one file, and no permissions but those of the names in it.
make_credentials() {
    local pki=$DIR/pki name groups token
    mkdir -p "$pki" "$DIR/kubeconfigs"
    chmod 700 "$pki" "$DIR/kubeconfigs"
    openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
    # Our own authority and certificate, so that clients can be configured to trust them before the server runs.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=fsa-test-cluster \
        -addext keyUsage=critical,keyCertSign,digitalSignature -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=kube-apiserver \
        -keyout "$pki/apiserver.key" -out "$pki/apiserver.csr" 2>/dev/null
    openssl x509 -req -in "$pki/apiserver.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 30 \
        -out "$pki/apiserver.crt" -extfile <(printf '%s\n' 'basicConstraints=critical,CA:false' \
            'keyUsage=critical,digitalSignature' 'extendedKeyUsage=serverAuth' \
            "subjectAltName=IP:$NODE_ADDRESS,IP:${DNS_ADDRESS%.*}.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local") 2>/dev/null
    : >"$pki/tokens.csv"
    while read -r name groups; do
        token=$(openssl rand -hex 24)
        printf '%s,%s,%s,"%s"\n' "$token" "$name" "$name" "$groups" >>"$pki/tokens.csv"
        kubeconfig_of "$name" "$token" >"$DIR/kubeconfigs/${name##*:}"
    done <<END
admin system:masters
system:kube-controller-manager
system:kube-scheduler
system:kube-proxy
system:node:$NODE system:nodes
END
    cp "$DIR/kubeconfigs/admin" "$DIR/kubeconfig"
}

kubeconfig_of() {
    cat <<END
apiVersion: v1
kind: Config
clusters:
  - name: fsa-test
    cluster:
      server: https://$NODE_ADDRESS:6443
      certificate-authority-data: $(base64 -w 0 "$DIR/pki/ca.crt")
users:
  - name: $1
    user:
      token: $2
contexts:
  - name: fsa-test
    context: {cluster: fsa-test, user: $1, namespace: default}
current-context: fsa-test
END
}

write_parts() {
    local pki=$DIR/pki configs=$DIR/kubeconfigs
    mkdir -p "$DIR"/{config,containerd,run,kubelet,volumes,etcd}
    chmod 700 "$DIR/etcd"
    write_configs

    part etcd <<END
exec etcd --data-dir '$DIR/etcd' --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \\
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 \\
    --logger zap --log-level warn --enable-v2=false
END
    # WatchList: etcd 3.4 cannot stream what a list would say, and a server that offers it anyway makes KWOK's
    # client retry every half minute.
    part apiserver <<END
exec '$KUBERNETES/kube-apiserver' --etcd-servers http://127.0.0.1:2379 --bind-address $NODE_ADDRESS --secure-port 6443 \\
    --advertise-address $NODE_ADDRESS --tls-cert-file '$pki/apiserver.crt' --tls-private-key-file '$pki/apiserver.key' \\
    --token-auth-file '$pki/tokens.csv' --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \\
    --service-account-issuer https://kubernetes.default.svc.cluster.local \\
    --service-account-key-file '$pki/accounts.key' --service-account-signing-key-file '$pki/accounts.key' \\
    --service-cluster-ip-range $SERVICES --allow-privileged --kubelet-preferred-address-types InternalIP \\
    --default-not-ready-toleration-seconds 30 --default-unreachable-toleration-seconds 30 --profiling=false \\
    --feature-gates WatchList=false
END
    part controller-manager <<END
exec '$KUBERNETES/kube-controller-manager' --kubeconfig '$configs/kube-controller-manager' --bind-address 127.0.0.1 \\
    --cert-dir '$DIR/run/controller-manager' --service-account-private-key-file '$pki/accounts.key' \\
    --root-ca-file '$pki/ca.crt' --use-service-account-credentials --leader-elect=false --profiling=false \\
    --cluster-cidr $PODS --allocate-node-cidrs --node-cidr-mask-size 24 --service-cluster-ip-range $SERVICES \\
    --node-monitor-grace-period ${FSA_TEST_NODE_GRACE:-40}s --node-monitor-period 2s --kube-api-qps 200 --kube-api-burst 400
END
    part scheduler <<END
exec '$KUBERNETES/kube-scheduler' --config '$DIR/config/scheduler.yaml' --bind-address 127.0.0.1 \\
    --cert-dir '$DIR/run/scheduler'
END
    part containerd <<END
exec containerd --config '$DIR/config/containerd.toml'
END
    part kubelet <<END
exec '$KUBERNETES/kubelet' --config '$DIR/config/kubelet.yaml' --kubeconfig '$configs/$NODE' --root-dir '$DIR/kubelet' \\
    --cert-dir '$DIR/run/kubelet' --hostname-override $NODE --node-ip $NODE_ADDRESS
END
    part proxy <<END
exec '$KUBERNETES/kube-proxy' --kubeconfig '$configs/kube-proxy' --proxy-mode iptables --cluster-cidr $PODS \\
    --hostname-override $NODE --bind-address $NODE_ADDRESS --healthz-bind-address 127.0.0.1:10256 \\
    --metrics-bind-address 127.0.0.1:10249 --conntrack-max-per-core 0 \\
    --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
END
    part provisioner <<END
exec '$OWN/standin' provisioner '$configs/admin' --node $NODE --folder '$DIR/volumes'
END
    part policy <<END
exec '$OWN/standin' policy '$configs/admin' --node $NODE
END
}

write_configs() {
    cat >"$DIR/config/scheduler.yaml" <<END
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: $DIR/kubeconfigs/kube-scheduler, qps: 200, burst: 400}
END
    # restrict_oom_score_adj: where the machine itself may not lower a score, runc fails to.
    cat >"$DIR/config/containerd.toml" <<END
version = 2
root = "$DIR/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$DIR/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "fsa.test/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$DIR/config/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
END
    mkdir -p "$DIR/config/cni"
    cat >"$DIR/config/cni/10-bridge.conflist" <<END
{"cniVersion": "0.4.0", "name": "fsa-test", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$DIR/run/cni", "ranges": [[{"subnet": "$NODE_PODS"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
    cat >"$DIR/config/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_ADDRESS
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://$DIR/run/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
serializeImagePulls: false
maxPods: 250
clusterDNS: [$DNS_ADDRESS]
clusterDomain: cluster.local
resolvConf: ""
nodeLeaseDurationSeconds: 20
volumePluginDir: $DIR/run/volume-plugins
END
}
