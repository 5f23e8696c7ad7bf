// The Gateway API's definitions, which are files of its module.
module fsa.test/cluster/gateway

go 1.24.0

require sigs.k8s.io/gateway-api v1.4.1
