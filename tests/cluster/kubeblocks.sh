#!/usr/bin/env bash
# kubeblocks.sh DIR start v1|v1-only|v1alpha1: installs the Cluster CRD of KubeBlocks and starts the stand-in operator.
#   v1        as 1.0: v1 stored, v1alpha1 served too, clusters with clusterDefinitionRef never acted on
#   v1-only   as 1.2: v1 alone
#   v1alpha1  as up to 0.8: v1alpha1 alone, one conn-credential secret per cluster
# kubeblocks.sh DIR stop: ends the operator; CRD, clusters and their servers stay.
set -euo pipefail
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"

cluster_dir "$@"
need_up

# One version of the CRD: the fields of the published manifests, and what the API server refuses.
crd_version() {
    local name=$1 stored=$2 definition=$3 component=$4
    cat <<END
    - name: $name
      served: true
      storage: $stored
      subresources: {status: {}}
      additionalPrinterColumns:
        - {name: DEFINITION, type: string, jsonPath: .spec.$definition}
        - {name: STATUS, type: string, jsonPath: .status.phase}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [terminationPolicy]
              x-kubernetes-preserve-unknown-fields: true
              properties:
                $definition: {type: string, maxLength: 64}
                terminationPolicy: {type: string, enum: [DoNotTerminate, Halt, Delete, WipeOut]}
                componentSpecs:
                  type: array
                  items:
                    type: object
                    required: [name]
                    x-kubernetes-preserve-unknown-fields: true
                    properties:
                      name: {type: string, maxLength: 22, pattern: '^[a-z]([a-z0-9\-]*[a-z0-9])?$'}
                      $component: {type: string}
                      replicas: {type: integer, format: int32, minimum: 0, default: 1}
                      volumeClaimTemplates:
                        type: array
                        items:
                          type: object
                          required: [name]
                          x-kubernetes-preserve-unknown-fields: true
                          properties: {name: {type: string}}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
END
}
crd() {
    cat <<END
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusters.apps.kubeblocks.io
  labels: {app.kubernetes.io/name: kubeblocks}
  annotations: {fsa.test/mode: $1}
spec:
  group: apps.kubeblocks.io
  scope: Namespaced
  names: {kind: Cluster, listKind: ClusterList, plural: clusters, singular: cluster, categories: [kubeblocks, all]}
  versions:
END
    case $1 in
    v1) crd_version v1 true clusterDef componentDef && crd_version v1alpha1 false clusterDefinitionRef componentDefRef ;;
    v1-only) crd_version v1 true clusterDef componentDef ;;
    v1alpha1) crd_version v1alpha1 true clusterDefinitionRef componentDefRef ;;
    esac
}

case ${2:-} in
start)
    mode=${3:-}
    case $mode in v1 | v1-only) api=v1 ;; v1alpha1) api=v1alpha1 ;; *) die "usage: kubeblocks.sh DIR start v1|v1-only|v1alpha1" ;; esac
    name=customresourcedefinition/clusters.apps.kubeblocks.io
    installed=$(kubectl get --ignore-not-found "$name" -o 'jsonpath={.metadata.annotations.fsa\.test/mode}')
    if [ -n "$installed" ] && [ "$installed" != "$mode" ]; then
        # A test's namespace is deleted with its clusters, in the background.
        none() { [ -z "$(kubectl get clusters.apps.kubeblocks.io -A -o name)" ]; }
        within 300 "the end of the clusters of KubeBlocks as $installed; delete them before starting $mode" none
        stop_part kubeblocks
        kubectl delete --wait "$name" >&2
        rm -rf "$DIR/run/api" # kubectl's discovery cache
    fi
    crd "$mode" | kubectl apply --server-side --force-conflicts -f - >&2
    kubectl wait --for=condition=Established --timeout=300s "$name" >&2
    part kubeblocks <<END
exec '$OWN/standin' kubeblocks '$DIR/kubeconfigs/admin' --api $api --image fsa.test/postgres:1
END
    start_part kubeblocks
    ;;
stop) stop_part kubeblocks ;;
*) die "usage: kubeblocks.sh DIR start v1|v1-only|v1alpha1, or kubeblocks.sh DIR stop" ;;
esac
