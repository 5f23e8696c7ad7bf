//! The driver passes the suite that every driver passes, in both ways to reach a pod.

mod direct {
    use fsa_kubernetes::settings::Reach;

    use crate::world::Place;

    fsa_driver_testing::conformance_tests!(Place::new(Reach::Direct).await);
}

mod port_forward {
    use fsa_kubernetes::settings::Reach;

    use crate::world::Place;

    fsa_driver_testing::conformance_tests!(Place::new(Reach::PortForward).await);
}
