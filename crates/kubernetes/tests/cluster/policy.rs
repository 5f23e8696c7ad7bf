//! A sandbox's network policy, tested by connections that succeed or time out. The test cluster has its own engine that
//! enforces it; production clusters have others.

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
    world::{Fixture, TOOLS, administrators_exec, exec_in, exported},
};

/// Tries within which a created or deleted policy must take effect; one that times out takes seconds.
const TRIES: usize = 20;
/// Prints for each `address:port` whether it answers at all: a refused connection is an answer too.
const PROBE: &str = "import socket, sys
def probe(target):
    host, port = target.rsplit(':', 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except TimeoutError:
        return 'silent'
    except ConnectionRefusedError:
        pass
    return 'answers'
print(*map(probe, sys.argv[1:]))";

#[tokio::test]
async fn a_sandbox_reaches_no_neighbor_no_api_server_no_metadata_and_no_private_range() {
    let fixture = Fixture::new(Reach::PortForward).await;
    let (spec, neighbor) = (spec("fenced"), spec("neighbor"));
    start(&fixture, &spec).await;
    start(&fixture, &neighbor).await;
    let address = fixture
        .pod(&neighbor.sandbox)
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

    let fenced = probe_output(&fixture, &spec.sandbox, &probe, "silent silent silent silent").await;
    assert_eq!(fenced, "silent silent silent silent", "{forbidden:?}");
    let name = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))";
    let resolved = administrators_exec(&fixture, &spec.sandbox, &["python3", "-c", name]).await;
    assert!(resolved.starts_with("10."), "DNS is not available: {resolved}");

    // The same targets answer once the policy is gone, so the policy blocked them.
    fixture
        .api::<NetworkPolicy>()
        .delete(spec.sandbox.resource.as_str(), &DeleteParams::default())
        .await
        .unwrap();
    let open = probe_output(&fixture, &spec.sandbox, &probe, "answers answers answers answers").await;
    assert_eq!(open, "answers answers answers answers", "{forbidden:?}");

    fixture.driver.destroy(&spec.sandbox).await.unwrap();
    fixture.driver.destroy(&neighbor.sandbox).await.unwrap();
}

/// The output of the probe, once it is as expected or its tries are used up.
async fn probe_output(
    fixture: &Fixture,
    sandbox: &fsa_model::SandboxRef,
    probe: &[&str],
    expected: &str,
) -> String {
    let pod = fixture.pod(sandbox).await.name_any();
    probe_output_in(fixture, &pod, probe, expected).await
}

async fn probe_output_in(fixture: &Fixture, pod: &str, probe: &[&str], expected: &str) -> String {
    let mut output = String::new();
    for _ in 0..TRIES {
        output = exec_in(fixture, pod, probe).await.trim().to_owned();
        if output == expected {
            break;
        }
    }
    output
}

/// A pod of others in the namespace.
async fn bystander(fixture: &Fixture, name: &str) -> String {
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
    let pods = fixture.api::<Pod>();
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
        .await
        .unwrap();
    let running = await_condition(pods, name, is_pod_running());
    tokio::time::timeout(std::time::Duration::from_secs(240), running)
        .await
        .expect("a pod runs in time")
        .unwrap();
    name.to_owned()
}

#[tokio::test]
async fn a_sandbox_reaches_only_its_own_database_and_the_ingress_controller_reaches_its_two_ports() {
    // The machine is the control plane here.
    let machine = format!("{}/32", exported("FSA_TEST_MACHINE_ADDRESS"));
    let fixture = Fixture::with(Reach::Direct, |settings, _| {
        settings.network.control_plane = vec![block(&machine, &[])];
        settings.network.ingress_controller = vec![pods(&[("role", "edge")])];
    })
    .await;
    let (own, others) = (database("own"), database("others"));
    let mut spec = spec("served");
    spec.database_role = Some(own.role());
    spec.start_command = Some("python3 -m http.server 3000".into());
    tokio::join!(ensure(&fixture, &own), ensure(&fixture, &others));
    start(&fixture, &spec).await;
    let edge = bystander(&fixture, "edge").await;
    let unrelated = bystander(&fixture, "unrelated").await;
    let address = |pod: Pod| pod.status.unwrap().pod_ip.unwrap();

    // Egress: to its own database by the name that the sandbox is given, not to the neighbor's by its address.
    let host = fixture.databases.credentials(&own).await.unwrap().host;
    let theirs = address(server(&fixture, &others).await);
    let out = [format!("{host}:5432"), format!("{theirs}:5432")];
    let probe = ["python3", "-c", PROBE, &out[0], &out[1]];
    let reached = probe_output(&fixture, &spec.sandbox, &probe, "answers silent").await;
    assert_eq!(reached, "answers silent", "{out:?}");

    // Ingress: the application and the terminal for the ingress controller, nothing for others. That the control plane
    // may connect is shown by the start.
    let sandbox = address(fixture.pod(&spec.sandbox).await);
    let targets = [3000, 7681, 7680, 5000].map(|port| format!("{sandbox}:{port}"));
    let mut probe = vec!["python3", "-c", PROBE];
    probe.extend(targets.iter().map(String::as_str));
    for (pod, expected) in [
        (&edge, "answers answers silent silent"),
        (&unrelated, "silent silent silent silent"),
    ] {
        assert_eq!(
            probe_output_in(&fixture, pod, &probe, expected).await,
            expected,
            "{pod}"
        );
    }

    fixture.driver.destroy(&spec.sandbox).await.unwrap();
    for database in [&own, &others] {
        Databases::drop(&*fixture.databases, database).await.unwrap();
    }
}
