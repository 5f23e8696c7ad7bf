//! Tests of the driver on a real cluster: API server, controllers, scheduler, kubelet, containerd, runc.
//!
//! `make test` starts the cluster; by hand: `tests/cluster/up.sh DIR`, `. DIR/env`, and the images
//! by `tests/cluster/image.sh`.

mod conformance;
mod doctor;
mod faults;
mod kubeblocks;
mod nodes;
mod policy;
mod routes;
mod warnings;
mod world;
