//! The driver passes the conformance suite with both settings of `reach`.

mod direct {
    use fsa_kubernetes::settings::Reach;

    use crate::world::Fixture;

    fsa_driver_testing::conformance_tests!(Fixture::new(Reach::Direct).await);
}

mod port_forward {
    use fsa_kubernetes::settings::Reach;

    use crate::world::Fixture;

    fsa_driver_testing::conformance_tests!(Fixture::new(Reach::PortForward).await);
}
