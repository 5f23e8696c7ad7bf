//! What a sandbox's network policy keeps it from, shown by packets that pass or do not. The engine
//! that enforces it is the test cluster's own; a cluster in use has another.

use fsa_driver::Driver as _;
use fsa_kubernetes::settings::Reach;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::DeleteParams;

use crate::{
    faults::{spec, start},
    world::{Place, administrators_exec, exported},
};

/// Tries in which a policy that was made or deleted must take effect; a silent one takes seconds.
const TRIES: usize = 20;
/// Says for each `address:port` whether it is heard of at all: a refusal is an answer too.
const PROBE: &str = "import socket, sys
def heard(place):
    host, port = place.rsplit(':', 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except TimeoutError:
        return 'silent'
    except ConnectionRefusedError:
        pass
    return 'answers'
print(*map(heard, sys.argv[1:]))";

#[tokio::test]
async fn a_sandbox_reaches_no_neighbour_no_api_server_no_metadata_and_no_private_range() {
    let place = Place::new(Reach::PortForward).await;
    let (spec, neighbour) = (spec("fenced"), spec("neighbour"));
    start(&place, &spec).await;
    start(&place, &neighbour).await;
    let address = place
        .pod(&neighbour.sandbox)
        .await
        .status
        .unwrap()
        .pod_ip
        .unwrap();
    let forbidden = [
        format!("{address}:7681"),
        format!("{}:6443", exported("FSA_TEST_NODE_ADDRESS")),
        "169.254.169.254:80".to_owned(),
        format!("{}:9", exported("FSA_TEST_MACHINE_ADDRESS")),
    ];
    let mut probe = vec!["python3", "-c", PROBE];
    probe.extend(forbidden.iter().map(String::as_str));

    let fenced = told(&place, &spec.sandbox, &probe, "silent silent silent silent").await;
    assert_eq!(fenced, "silent silent silent silent", "{forbidden:?}");
    let name = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))";
    let resolved = administrators_exec(&place, &spec.sandbox, &["python3", "-c", name]).await;
    assert!(resolved.starts_with("10."), "DNS is not to be had: {resolved}");

    // The same places answer once the policy is gone, so it was the policy that kept them silent.
    place
        .api::<NetworkPolicy>()
        .delete(spec.sandbox.resource.as_str(), &DeleteParams::default())
        .await
        .unwrap();
    let open = told(&place, &spec.sandbox, &probe, "answers answers answers answers").await;
    assert_eq!(open, "answers answers answers answers", "{forbidden:?}");

    place.driver.destroy(&spec.sandbox).await.unwrap();
    place.driver.destroy(&neighbour.sandbox).await.unwrap();
}

/// What the probe says, when it says what is expected or when its tries are over.
async fn told(place: &Place, sandbox: &fsa_model::SandboxRef, probe: &[&str], expected: &str) -> String {
    let mut said = String::new();
    for _ in 0..TRIES {
        said = administrators_exec(place, sandbox, probe).await.trim().to_owned();
        if said == expected {
            break;
        }
    }
    said
}
