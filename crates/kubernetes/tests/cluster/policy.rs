//! What a sandbox's network policy keeps it from, shown by packets that pass or do not. The engine
//! that enforces it is the test cluster's own; a cluster in use has another.

use fsa_driver::{Databases, Driver as _};
use fsa_kubernetes::{
    objects::network_policy::{block, pods},
    settings::Reach,
};
use k8s_openapi::api::{core::v1::Pod, networking::v1::NetworkPolicy};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, PostParams},
    runtime::wait::{await_condition, conditions::is_pod_running},
};
use serde_json::json;

use crate::{
    faults::{spec, start},
    kubeblocks::{database, ensure, server},
    world::{Place, TOOLS, administrators_exec, exec_in, exported},
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
async fn a_sandbox_reaches_no_neighbor_no_api_server_no_metadata_and_no_private_range() {
    let place = Place::new(Reach::PortForward).await;
    let (spec, neighbor) = (spec("fenced"), spec("neighbor"));
    start(&place, &spec).await;
    start(&place, &neighbor).await;
    let address = place.pod(&neighbor.sandbox).await.status.unwrap().pod_ip.unwrap();
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
    place.driver.destroy(&neighbor.sandbox).await.unwrap();
}

/// What the probe says, when it says what is expected or when its tries are over.
async fn told(place: &Place, sandbox: &fsa_model::SandboxRef, probe: &[&str], expected: &str) -> String {
    let pod = place.pod(sandbox).await.name_any();
    told_in(place, &pod, probe, expected).await
}

async fn told_in(place: &Place, pod: &str, probe: &[&str], expected: &str) -> String {
    let mut said = String::new();
    for _ in 0..TRIES {
        said = exec_in(place, pod, probe).await.trim().to_owned();
        if said == expected {
            break;
        }
    }
    said
}

/// A pod of somebody else in the namespace.
async fn bystander(place: &Place, name: &str) -> String {
    let pod = json!({
        "metadata": {"name": name, "labels": {"role": name}},
        "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "sandbox", "image": TOOLS, "imagePullPolicy": "Never", "command": ["sleep", "infinity"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    let pods = place.api::<Pod>();
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let running = await_condition(pods, name, is_pod_running());
    tokio::time::timeout(std::time::Duration::from_secs(60), running)
        .await
        .expect("a pod runs in time")
        .unwrap();
    name.to_owned()
}

#[tokio::test]
async fn a_sandbox_reaches_its_own_database_alone_and_the_ingress_controller_reaches_its_two_ports() {
    // The machine is the control plane here.
    let machine = format!("{}/32", exported("FSA_TEST_MACHINE_ADDRESS"));
    let place = Place::with(Reach::Direct, |settings, _| {
        settings.network.control_plane = vec![block(&machine, &[])];
        settings.network.ingress_controller = vec![pods(&[("role", "edge")])];
    })
    .await;
    let (own, others) = (database("own"), database("others"));
    let mut spec = spec("served");
    spec.database_role = Some(own.role());
    spec.start_command = Some("python3 -m http.server 3000".into());
    tokio::join!(ensure(&place, &own), ensure(&place, &others));
    start(&place, &spec).await;
    let edge = bystander(&place, "edge").await;
    let stranger = bystander(&place, "stranger").await;
    let address = |pod: Pod| pod.status.unwrap().pod_ip.unwrap();

    // Out: by the name that the sandbox is given, and to the neighbor's by any.
    let host = place.databases.credentials(&own).await.unwrap().host;
    let theirs = address(server(&place, &others).await);
    let out = [format!("{host}:5432"), format!("{theirs}:5432")];
    let probe = ["python3", "-c", PROBE, &out[0], &out[1]];
    let heard = told(&place, &spec.sandbox, &probe, "answers silent").await;
    assert_eq!(heard, "answers silent", "{out:?}");

    // In: the application and the terminal for the ingress controller, nothing for anybody else; the control plane
    // came in to start it.
    let sandbox = address(place.pod(&spec.sandbox).await);
    let ways = [3000, 7681, 7680, 5000].map(|port| format!("{sandbox}:{port}"));
    let mut probe = vec!["python3", "-c", PROBE];
    probe.extend(ways.iter().map(String::as_str));
    for (pod, expected) in [
        (&edge, "answers answers silent silent"),
        (&stranger, "silent silent silent silent"),
    ] {
        assert_eq!(told_in(&place, pod, &probe, expected).await, expected, "{pod}");
    }

    place.driver.destroy(&spec.sandbox).await.unwrap();
    for database in [&own, &others] {
        Databases::drop(&*place.databases, database).await.unwrap();
    }
}
