// The ingress-nginx controller (its 1.11.0), built from its own module's files by its own go.sum.
module fsa.test/cluster/ingress

go 1.22.0

require k8s.io/ingress-nginx v0.0.0-20240708192948-52c50467d67d
