//! Golden files of a sandbox's Kubernetes objects, and what must never be in them.

use fsa_kubernetes::{
    objects::{self, network_policy::pods},
    settings::{Expose, Network, Settings, Style},
};
use fsa_model::{
    Image, ProjectName, ResourceName, SandboxRef, SandboxSpec, Size, VolumeId, environment::Environment,
};
use insta::assert_yaml_snapshot;

fn spec() -> SandboxSpec {
    let id = "0190a000-0000-7000-8000-00000000000";
    let project = format!("{id}2").parse().unwrap();
    SandboxSpec {
        sandbox: SandboxRef {
            id: format!("{id}1").parse().unwrap(),
            project,
            volume: VolumeId::of_main(project),
            resource: ResourceName::parse("todo-app-agentruntime-abc234").unwrap(),
        },
        owner: format!("{id}3").parse().unwrap(),
        project_name: ProjectName::parse("todo-app").unwrap(),
        image: Image::Template("web".into()),
        resources: Size::Micro.resources(),
        environment: Environment::from([("API_KEY".to_owned(), "sk-secret".to_owned().into())]),
        start_command: None,
        repository: None,
        control_token: "control-secret".to_owned().into(),
        database_role: Some("todo_app_agentruntime_abc234".into()),
        restarts: 0,
    }
}

fn settings() -> Settings {
    Settings {
        installation: "0123456789ab".into(),
        sandboxd_image: "fullstackagent/sandboxd:1".into(),
        ..Settings::default()
    }
}

fn exposed(style: Style) -> Settings {
    Settings {
        expose: Expose {
            style,
            domain: Some("apps.example.org".into()),
            ingress_class: Some("nginx".into()),
            tls_secret: Some("apps-tls".into()),
            sign_in_url: Some("https://fsa.example.org".into()),
            auth_url: Some("http://fsa.control.svc:8080/".into()),
            gateway: Some("public".into()),
            gateway_namespace: Some("gateways".into()),
        },
        ..settings()
    }
}

#[test]
fn the_deployment_is_restricted_and_carries_sandboxd_into_the_image() {
    assert_yaml_snapshot!(objects::deployment(
        &spec(),
        &settings(),
        "registry.example/web:1"
    ));
}

#[test]
fn a_deployment_follows_the_settings_of_its_cluster() {
    let settings = Settings {
        image_pull_secrets: vec!["registry".into()],
        node_selector: [("pool".to_owned(), "sandboxes".to_owned())].into(),
        tolerations: vec![serde_json::from_str(r#"{"key":"sandboxes","operator":"Exists"}"#).unwrap()],
        runtime_class: Some("gvisor".into()),
        image_pull_policy: "Always".into(),
        ..settings()
    };
    let spec = SandboxSpec {
        resources: Size::Small.resources(),
        ..spec()
    };
    assert_yaml_snapshot!(objects::deployment(&spec, &settings, "registry.example/web:1"));
}

#[test]
fn the_service_has_the_four_known_ports_and_not_the_control_port() {
    assert_yaml_snapshot!(objects::service(&spec(), &settings()));
}

#[test]
fn the_home_is_a_claim_of_the_project() {
    assert_yaml_snapshot!(objects::claim(&spec(), &settings()));
}

#[test]
fn two_ingresses_lead_to_the_application_and_the_terminal_with_the_sign_in_in_front() {
    assert!(objects::ingresses(&spec(), &settings()).is_empty());
    assert_yaml_snapshot!(objects::ingresses(&spec(), &exposed(Style::Ingress)));
}

#[test]
fn routes_of_a_gateway_lead_to_the_same_hosts() {
    assert!(objects::ingresses(&spec(), &exposed(Style::HttpRoute)).is_empty());
    assert_yaml_snapshot!(objects::http_routes(&spec(), &exposed(Style::HttpRoute)));
}

#[test]
fn the_network_policy_lets_in_the_gateway_and_out_to_the_public_internet() {
    let settings = Settings {
        network: Network {
            ingress_controller: vec![pods(&[("app.kubernetes.io/name", "ingress-nginx")])],
            allow: vec!["10.1.0.0/16".into()],
            ..Network::default()
        },
        ..settings()
    };
    let database = (
        pods(&[("app.kubernetes.io/instance", "todo-app-agentruntime-abc234")]),
        5432,
    );
    assert_yaml_snapshot!(objects::network_policy::network_policy(
        &spec(),
        &settings,
        Some(database)
    ));
}

#[test]
fn the_objects_of_a_branch_name_its_volume() {
    let (mut spec, settings) = (spec(), settings());
    spec.sandbox.volume = "0190a000-0000-7000-8000-000000000004".parse().unwrap();

    let claim = objects::claim(&spec, &settings);
    let deployment = objects::deployment(&spec, &settings, "x");

    let name = "home-0190a000-0000-7000-8000-000000000004";
    assert_eq!(claim.metadata.name.as_deref(), Some(name));
    assert!(serde_json::to_string(&deployment).unwrap().contains(name));
    assert_eq!(objects::owner(&deployment.metadata), Some(spec.sandbox));
}

#[test]
fn secrets_are_in_the_secret_only() {
    let (spec, settings) = (spec(), exposed(Style::Ingress));
    let secret = objects::secret(&spec, &settings);
    let boot = String::from_utf8(secret.data.unwrap()["boot.json"].0.clone()).unwrap();
    assert!(boot.contains("sk-secret") && boot.contains("control-secret"));
    let rest = [
        serde_json::to_string(&objects::deployment(&spec, &settings, "x")).unwrap(),
        serde_json::to_string(&objects::ingresses(&spec, &settings)).unwrap(),
        serde_json::to_string(&secret.metadata).unwrap(),
    ]
    .concat();
    assert!(!rest.contains("sk-secret") && !rest.contains("control-secret"));
}

#[test]
fn every_host_fits_into_a_label_even_with_the_longest_name() {
    let name = ProjectName::parse(&"a".repeat(40)).unwrap();
    let mut spec = spec();
    spec.sandbox.resource = ResourceName::generate(&name);
    for host in objects::hosts(&spec.sandbox.resource, "apps.example.org") {
        let label = host.host.split('.').next().unwrap();
        assert!(label.len() <= 63 && !label.ends_with('-'), "{label}");
    }
}

#[test]
fn the_charts_role_is_the_list_of_permissions_that_the_driver_needs() {
    let all = Settings {
        expose: Expose {
            style: Style::HttpRoute,
            ..Expose::default()
        },
        ..settings()
    };
    let rules = serde_json::to_value(fsa_kubernetes::rbac::rules(&all)).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/chart/role.json");
    let file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(file["kind"], "Role");
    assert_eq!(
        file["rules"],
        rules,
        "the file should have these rules:\n{}",
        serde_json::to_string(&rules).unwrap()
    );
}
