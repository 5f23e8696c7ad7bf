//! Parsers of the local driver: the runner's requests, the database proxy's start-up packets, image manifests.

use fsa_fuzz::target;
use fsa_local::{
    database_proxy::startup::{self, InitialPacket},
    images::{
        digest::Digest,
        manifest::{self, Document},
    },
    protocol,
};

use crate::error_text;

/// Requests to the runner: a request survives a round trip, and an accepted start has no name that could be a
/// path.
#[test]
fn runner_requests() {
    let sandbox = r#"{"id":"018f3c3e-7a10-7cc0-8000-000000000001","project":"018f3c3e-7a10-7cc0-8000-000000000002","resource":"todo-agentruntime-2k3b4c"}"#;
    let resources = r#"{"cpuRequestMillis":20,"cpuLimitMillis":2000,"memoryRequestMib":25,"memoryLimitMib":2048,"pidsLimit":2048}"#;
    let seeds = [
        r#"{"op":"hello","version":1}"#.to_owned(),
        r#"{"op":"inventory"}"#.to_owned(),
        format!(r#"{{"op":"observe","sandbox":{sandbox}}}"#),
        format!(r#"{{"op":"stop","sandbox":{sandbox},"grace_millis":10}}"#),
        format!(
            r#"{{"op":"startContainer","sandbox":{sandbox},"root":"host","resources":{resources},"digest":"00ff","hostname":"todo","databaseProxy":true}}"#
        ),
    ];
    target("runner-requests")
        .seeds(&seeds)
        .dictionary(&[
            b"\"op\":",
            b"\"../../etc\"",
            b"null",
            b"[]",
            b"{}",
            b"\"layers\"",
            b"\\u0000",
        ])
        .check(|bytes| {
            let request = match serde_json::from_slice::<protocol::Request>(bytes) {
                Ok(request) => request,
                Err(error) => return error_text(&error),
            };
            let again = serde_json::to_vec(&request).expect("it is written");
            assert_eq!(
                serde_json::from_slice::<protocol::Request>(&again).ok().as_ref(),
                Some(&request)
            );
            if let Some(resource) = protocol::subject(&request) {
                assert!(!resource.as_str().contains(['/', '.', '\0']), "{resource}");
            }
            if let protocol::Request::StartContainer(start) = &request
                && protocol::check(start).is_ok()
            {
                assert!(!start.hostname.contains(['/', '.', '\0']) && !start.digest.contains(['/', '.']));
                return "a start".into();
            }
            format!("{request:?}").chars().take(12).collect()
        });
}

/// Start-up packet of a database client: only the sandbox's own role and database are accepted.
#[test]
fn database_start_up() {
    let packet = |parameters: &[&str]| {
        let mut bytes = 196_608_u32.to_be_bytes().to_vec();
        for text in parameters {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    };
    let seeds = vec![
        packet(&["user", "p_one", "database", "p_one"]),
        packet(&["user", "p_one"]),
        packet(&["user", "postgres", "database", "p_one", "replication", "true"]),
        80_877_103_u32.to_be_bytes().to_vec(),
        [80_877_102_u32.to_be_bytes().to_vec(), vec![0; 12]].concat(),
    ];
    target("database-start-up")
        .seeds(&seeds)
        .dictionary(&[
            b"user\0",
            b"database\0",
            b"p_one\0",
            b"fsa\0",
            b"replication\0",
            b"options\0",
            b"\0\0",
        ])
        .check(|bytes| {
            match startup::parse(bytes) {
                Ok(InitialPacket::Startup(found)) => match found.authorize("p_one") {
                    Ok(packet) => {
                        // Parsed like in PostgreSQL.
                        let Ok(InitialPacket::Startup(passed)) = startup::parse(&packet[4..]) else {
                            panic!("what is passed on is a start-up packet");
                        };
                        assert!(passed.authorize("p_one").is_ok());
                        let bootstrap = (b"user".to_vec(), b"fsa".to_vec());
                        assert!(!passed.parameters.contains(&bootstrap));
                        "let in".into()
                    }
                    Err(_) => "kept out".into(),
                },
                Ok(other) => format!("{other:?}").chars().take(6).collect(),
                Err(_) => "broken".into(),
            }
        });
}

/// Manifests, indexes and configurations of images: the plan stays within the limits.
#[test]
fn manifests() {
    let digest = Digest::of(b"x");
    let seeds = [
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":7}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":9}}]}}"#
        ),
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"amd64"}},"annotations":{{"org.opencontainers.image.ref.name":"a"}}}}]}}"#
        ),
        format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"config":{{"Env":["A=b"],"User":"1","WorkingDir":"/"}}}}"#
        ),
        r#"{"schemaVersion":1}"#.to_owned(),
    ];
    target("manifests")
        .seeds(&seeds)
        .dictionary(&[
            b"null",
            b"[]",
            b"{}",
            b"\"layers\":",
            b"\"manifests\":",
            b"\"sha256:",
            b"\"Env\":",
            b",",
        ])
        .check(|bytes| {
            let config = manifest::parse_config(bytes);
            let ids = config.as_ref().map_or(&[][..], |(ids, _)| ids);
            let plan = match manifest::parse(bytes) {
                Ok(Document::Index(index)) => match manifest::choose(&index, Some("a")) {
                    Ok(chosen) => {
                        assert!(index.contains(chosen));
                        "chosen".into()
                    }
                    Err(problem) => error_text(&problem),
                },
                Ok(Document::Manifest(found)) => match manifest::layers(&found, ids) {
                    Ok(layers) => {
                        assert!(layers.len() <= manifest::LAYERS_MAX);
                        format!("{} layers", layers.len().min(3))
                    }
                    Err(problem) => error_text(&problem),
                },
                Err(problem) => error_text(&problem),
            };
            format!("{plan} {}", config.is_ok())
        });
}
