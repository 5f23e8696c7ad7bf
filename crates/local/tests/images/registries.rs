//! Registry tests: valid registries, faulty ones, and refused addresses.

use std::{
    collections::HashMap,
    sync::{Mutex, atomic::Ordering},
    time::Duration,
};

use fsa_local::images::{Digest, RegistryCredentials, Settings};
use fsa_model::{Failure, FailureKind};
use serde_json::json;
use tar::EntryType;

use crate::{
    registry_server::{Access, Faults, Registry},
    support::{MEDIA_MANIFEST, Tar, TestImage, World, architecture, gzip, layered, reference},
};

/// Settings that allow the test's registry, which is on this machine.
fn settings(registry: &Registry) -> Settings {
    Settings {
        allowed_registries: vec![registry.address.clone()],
        keep_free_bytes: 0,
        retry_pause: Duration::from_millis(1),
        ..Settings::default()
    }
}

/// An image with a layer that does not compress, so that a transfer can break in the middle.
fn made() -> TestImage {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let noise: Vec<u8> = (0..300_000).map(|_| next()).collect();
    let lower = Tar::default()
        .add(EntryType::Regular, "noise", "", &noise, |_| {})
        .end();
    TestImage::of(&[lower, Tar::default().file("hello", "world").end()], gzip)
}

async fn pull_with(faults: Faults) -> (World, Registry, Result<TestImage, Failure>) {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    let name = registry.serve_image("1", &made);
    // A short one only where it has to pass: on a busy machine the registry itself may be slow.
    let idle_timeout = Duration::from_millis(if faults.stall { 300 } else { 240_000 });
    registry.inject(faults);
    let store = world.store(Settings {
        idle_timeout,
        ..settings(&registry)
    });
    let result = store.resolve(&reference(&name)).await.map(|_| made);
    (world, registry, result)
}

#[tokio::test]
async fn an_image_is_pulled_once_and_kept() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    let name = registry.serve_image("1", &made);
    registry.require(Access::Token);
    let store = world.store(settings(&registry));
    let progress = Mutex::new(Vec::new());

    store.check(&reference(&name)).await.unwrap();
    let image = layered(
        store
            .resolve_with(&reference(&name), &|word| progress.lock().unwrap().push(word))
            .await
            .unwrap(),
    );
    let requests = registry.requests().len();
    let again = layered(store.resolve(&reference(&name)).await.unwrap());

    assert_eq!(image.layers, made.diff_ids);
    assert_eq!(image.digest, Digest::of(&made.manifest).to_string());
    assert_eq!(made.read(&world, 1, "hello"), "world");
    assert_eq!(
        (again.layers, registry.requests().len()),
        (image.layers, requests)
    );
    assert_eq!(store.list().unwrap()[0].name, name);
    let progress = progress.into_inner().unwrap();
    // Of several reports at once, the newest is seen.
    let last = progress.last().unwrap();
    assert!(
        last.total_layers == 2 && last.total_bytes > 0 && last.bytes <= last.total_bytes,
        "{progress:?}"
    );
    assert_eq!(store.progress(&reference(&name)), None);
    assert!(!world.contents().iter().any(|path| path.contains("incoming")));
}

#[tokio::test]
async fn an_image_of_a_registry_that_is_not_listed_is_refused_before_any_request() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    let name = registry.serve_image("1", &made);
    let store = |registries: &[&str]| {
        let only_registries = registries.iter().map(|&one| one.to_owned()).collect();
        world.store(Settings {
            only_registries,
            ..settings(&registry)
        })
    };
    let image = reference(&name);

    let closed = store(&["ghcr.io"]);
    let failures = [
        closed.resolve(&image).await.map(drop).unwrap_err(),
        closed.check(&image).await.unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(failure.kind, FailureKind::Input);
        assert!(failure.message.contains("it pulls from ghcr.io"), "{failure}");
    }
    assert!(registry.requests().is_empty());

    let host = name.split('/').next().unwrap();
    let open = store(&["ghcr.io", host]);
    open.resolve(&image).await.unwrap();
    // What is here stays in use.
    closed.resolve(&image).await.unwrap();
}

#[tokio::test]
async fn concurrent_pulls_of_one_image_share_the_work() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    let name = registry.serve_image("1", &made);
    registry.inject(Faults {
        delay: Duration::from_millis(50),
        ..Faults::default()
    });
    let store = world.store(settings(&registry));

    let image = reference(&name);
    let all = futures_util::future::join_all((0..8).map(|_| store.resolve(&image))).await;

    assert!(all.iter().all(Result::is_ok));
    let mut counts = HashMap::new();
    for request in registry.requests() {
        *counts.entry(request).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert_eq!(world.unpacker.unpacked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn layers_shared_with_another_image_are_not_fetched_again() {
    let (world, registry) = (World::new(), Registry::start().await);
    let base = Tar::default().file("base", "x").end();
    let first = TestImage::of(std::slice::from_ref(&base), gzip);
    let second = TestImage::of(&[base, Tar::default().file("top", "x").end()], gzip);
    let (one, two) = (
        registry.serve_image("1", &first),
        registry.serve_image("2", &second),
    );
    let store = world.store(settings(&registry));
    store.resolve(&reference(&one)).await.unwrap();

    store.resolve(&reference(&two)).await.unwrap();

    let base = format!("GET /v2/team/app/blobs/{}", Digest::of(&first.layers[0]));
    assert_eq!(
        registry
            .requests()
            .iter()
            .filter(|request| **request == base)
            .count(),
        1
    );
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_an_input_failure() {
    let (world, registry) = (World::new(), Registry::start().await);
    let store = world.store(settings(&registry));
    let name = format!("{}/team/app:nope", registry.address);

    let checked = store.check(&reference(&name)).await.unwrap_err();
    let resolved = store.resolve(&reference(&name)).await.unwrap_err();

    for failure in [checked, resolved] {
        assert_eq!(failure.kind, FailureKind::Input);
        assert!(
            failure.message.contains("does not exist") && failure.message.contains(&name),
            "{}",
            failure.message
        );
    }
    for nonsense in ["", "a b", "UPPER", "http://example.org/x", &"x".repeat(600)] {
        let failure = store.check(&reference(nonsense)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Input, "{nonsense}");
    }
}

#[tokio::test]
async fn a_private_image_needs_the_operators_credentials() {
    let (registry, made) = (Registry::start().await, made());
    let name = registry.serve_image("1", &made);
    for access in [
        Access::TokenFor("robot:s3cret".into()),
        Access::Basic("robot:s3cret".into()),
    ] {
        registry.require(access);
        let with = |password: Option<&str>| Settings {
            credentials: password
                .map(|password| RegistryCredentials {
                    registry: registry.address.clone(),
                    username: "robot".into(),
                    password: password.to_owned().into(),
                })
                .into_iter()
                .collect(),
            ..settings(&registry)
        };

        for refused in [None, Some("wrong")] {
            let world = World::new();
            let failure = world
                .store(with(refused))
                .check(&reference(&name))
                .await
                .unwrap_err();
            assert_eq!(failure.kind, FailureKind::Input);
            assert!(
                failure.message.contains("requires a sign-in"),
                "{}",
                failure.message
            );
        }
        let world = World::new();
        world
            .store(with(Some("s3cret")))
            .resolve(&reference(&name))
            .await
            .unwrap();
        assert!(!format!("{:?}", with(Some("s3cret"))).contains("s3cret"));
    }
}

#[tokio::test]
async fn a_broken_download_resumes_where_it_stopped() {
    let (_, registry, result) = pull_with(Faults {
        break_off: 2,
        ..Faults::default()
    })
    .await;

    let made = result.unwrap();
    let whole: usize = made.layers.iter().map(Vec::len).sum::<usize>() + made.config.len();
    assert!(
        registry.sent() <= whole,
        "{} of {whole} bytes were sent",
        registry.sent()
    );

    // The download restarts if the registry does not support ranges.
    let (world, _, result) = pull_with(Faults {
        break_off: 1,
        no_ranges: true,
        ..Faults::default()
    })
    .await;
    assert_eq!(result.unwrap().read(&world, 1, "hello"), "world");
}

#[tokio::test]
async fn a_registry_that_is_busy_for_a_moment_is_retried() {
    let (_, _, result) = pull_with(Faults {
        busy: 2,
        ..Faults::default()
    })
    .await;

    assert!(result.is_ok());
}

#[tokio::test]
async fn a_registry_that_stays_faulty_is_an_error_and_nothing_is_left() {
    for (faults, kind, expected) in [
        (
            Faults {
                busy: 1000,
                ..Faults::default()
            },
            FailureKind::Transient,
            "busy or out of order",
        ),
        (
            Faults {
                stall: true,
                ..Faults::default()
            },
            FailureKind::Transient,
            "does not answer",
        ),
        (
            Faults {
                break_off: 1000,
                no_ranges: true,
                ..Faults::default()
            },
            FailureKind::Transient,
            "does not answer",
        ),
        (
            Faults {
                corrupt: true,
                ..Faults::default()
            },
            FailureKind::Transient,
            "with the digest",
        ),
        (
            Faults {
                pad: true,
                ..Faults::default()
            },
            FailureKind::Transient,
            "with the digest",
        ),
        (
            Faults {
                redirect: Some("http://169.254.169.254/latest".into()),
                ..Faults::default()
            },
            FailureKind::Input,
            "private network",
        ),
        (
            Faults {
                redirect: Some("http://127.0.0.1:1/".into()),
                ..Faults::default()
            },
            FailureKind::Input,
            "private network",
        ),
    ] {
        let (world, _, result) = pull_with(faults).await;

        let failure = result.err().unwrap();
        assert!(
            failure.message.contains(expected),
            "{expected}: {}",
            failure.message
        );
        assert_eq!(failure.kind, kind, "{}", failure.message);
        assert_eq!(world.contents(), Default::default());
    }
}

#[tokio::test]
async fn an_image_name_cannot_lead_into_a_private_network() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    registry.serve_image("1", &made);
    let port = registry.address.rsplit_once(':').unwrap().1;
    let store = world.store(Settings {
        allowed_registries: vec!["127.0.0.1:1".into()],
        attempts: 1,
        ..settings(&registry)
    });

    for name in [
        format!("127.0.0.1:{port}/team/app:1"),
        format!("localhost:{port}/team/app:1"),
        "169.254.169.254/a/b".into(),
    ] {
        let failure = store.check(&reference(&name)).await.unwrap_err();
        assert!(
            failure.message.contains("private network or on this machine"),
            "{}",
            failure.message
        );
        assert_eq!(failure.kind, FailureKind::Input);
    }
    assert!(registry.requests().is_empty(), "{:?}", registry.requests());
}

#[tokio::test]
async fn a_token_server_cannot_lead_into_a_private_network() {
    let (world, registry, other, made) = (
        World::new(),
        Registry::start().await,
        Registry::start().await,
        made(),
    );
    let name = registry.serve_image("1", &made);
    registry.require(Access::TokenAt(format!("http://{}/token", other.address)));

    let failure = world
        .store(settings(&registry))
        .check(&reference(&name))
        .await
        .unwrap_err();

    assert!(failure.message.contains("private network"), "{}", failure.message);
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn an_image_for_other_machines_is_an_input_failure() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    let config = String::from_utf8(made.config.clone())
        .unwrap()
        .replace(architecture(), "mips")
        .into_bytes();
    registry.blob(&config);
    let other_config = String::from_utf8(made.manifest.clone()).unwrap().replace(
        &Digest::of(&made.config).to_string(),
        &Digest::of(&config).to_string(),
    );
    let chart = json!({"schemaVersion": 2, "config": {"digest": Digest::of(b"{}"), "size": 2},
        "layers": [{"mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "digest": Digest::of(b"x"), "size": 1}]});
    registry.blob(b"{}");
    let store = world.store(Settings {
        attempts: 1,
        ..settings(&registry)
    });

    for (name, expected) in [
        (
            registry.serve_image_for("mips", &made, "mips"),
            "is not there for linux/",
        ),
        (
            registry.manifest("config", MEDIA_MANIFEST, other_config.as_bytes()),
            "it is there for linux/mips",
        ),
        (
            registry.manifest("chart", MEDIA_MANIFEST, chart.to_string().as_bytes()),
            "is no container image",
        ),
        (
            registry.manifest("old", MEDIA_MANIFEST, br#"{"schemaVersion":1,"fsLayers":[]}"#),
            "first format",
        ),
        (
            registry.manifest("endless", MEDIA_MANIFEST, &vec![b' '; 5 << 20]),
            "for a small document",
        ),
        (
            registry.manifest("broken", MEDIA_MANIFEST, b"<html>"),
            "cannot be read",
        ),
    ] {
        let failure = store.resolve(&reference(&name)).await.unwrap_err();
        assert!(
            failure.message.contains(expected),
            "{expected}: {}",
            failure.message
        );
        assert_eq!(failure.kind, FailureKind::Input);
        assert_eq!(world.contents(), Default::default());
    }
}

#[tokio::test]
async fn a_pinned_image_has_the_requested_digest() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    registry.serve_image("1", &made);
    let wrong = Digest::of(b"another").to_string();
    registry.manifest(&wrong, MEDIA_MANIFEST, &made.manifest);
    let store = world.store(Settings {
        attempts: 1,
        ..settings(&registry)
    });
    let pinned = |digest: &str| reference(&format!("{}/team/app@{digest}", registry.address));

    store
        .resolve(&pinned(&Digest::of(&made.manifest).to_string()))
        .await
        .unwrap();
    let failure = store.resolve(&pinned(&wrong)).await.unwrap_err();

    assert!(failure.message.contains("with the digest"), "{}", failure.message);
}

#[tokio::test]
async fn an_image_over_the_limit_is_refused_before_it_is_fetched() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    let name = registry.serve_image("1", &made);
    for (limited, expected) in [
        (
            Settings {
                max_archive_bytes: 1000,
                ..settings(&registry)
            },
            "is larger than",
        ),
        (
            Settings {
                keep_free_bytes: u64::MAX / 2,
                ..settings(&registry)
            },
            "the disk has no room",
        ),
    ] {
        let failure = world.store(limited).resolve(&reference(&name)).await.unwrap_err();

        assert!(failure.message.contains(expected), "{}", failure.message);
        assert_eq!(world.contents(), Default::default());
    }
    assert!(
        !registry
            .requests()
            .iter()
            .any(|request| request.contains(&Digest::of(&made.layers[0]).to_string()))
    );
}

#[tokio::test]
async fn an_imported_name_is_not_requested_from_a_registry() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    let name = format!("{}/team/app:1", registry.address);
    let store = world.store(settings(&registry));
    store
        .import(&name, crate::support::upload(&made.archive()))
        .await
        .unwrap();

    store.check(&reference(&name)).await.unwrap();
    store.resolve(&reference(&name)).await.unwrap();

    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn no_bytes_in_a_manifest_do_harm() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    registry.serve_image("1", &made);
    let store = world.store(Settings {
        attempts: 1,
        ..settings(&registry)
    });
    let mut runner = proptest::test_runner::TestRunner::default();
    let damage = (0..made.manifest.len(), 1..=255u8, 0..2usize);
    let noise = proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300);

    for _ in 0..200 {
        let (at, flip, cut) = damage.new_tree(&mut runner).unwrap().current();
        let mut damaged = made.manifest.clone();
        damaged[at] ^= flip;
        damaged.truncate(damaged.len() - cut * at);
        for bytes in [damaged, noise.new_tree(&mut runner).unwrap().current()] {
            let name = registry.manifest("fuzz", MEDIA_MANIFEST, &bytes);
            match store.resolve(&reference(&name)).await {
                Err(failure) => assert_ne!(failure.kind, FailureKind::Internal, "{}", failure.message),
                Ok(_) => store.remove(&name).unwrap(),
            }
        }
    }
    assert!(!world.contents().iter().any(|path| path.contains("incoming")));
}

#[tokio::test]
async fn a_registry_behind_a_proxy_is_reached_through_it() {
    let (world, registry, made) = (World::new(), Registry::start().await, made());
    registry.serve_image("1", &made);
    let store = world.store(Settings {
        allowed_registries: Vec::new(),
        plain_http_registries: vec!["registry.invalid".into()],
        proxy: Some(format!("http://{}", registry.address)),
        ..settings(&registry)
    });

    store
        .resolve(&reference("registry.invalid/team/app:1"))
        .await
        .unwrap();
    // A private address is not reached through the proxy.
    let failure = store.check(&reference("10.0.0.1/team/app:1")).await.unwrap_err();

    assert_eq!(made.read(&world, 1, "hello"), "world");
    assert!(failure.message.contains("private network"), "{}", failure.message);
}
