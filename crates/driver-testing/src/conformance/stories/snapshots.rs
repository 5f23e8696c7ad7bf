//! Stories of snapshots. In a region without them each only checks that they are refused.

use fsa_model::{
    FailureKind, SandboxSpec, SnapshotId,
    sandboxd::HOME,
    snapshot::{ChangeKind, SnapshotContent},
};

use super::super::fixture::{Fixture, within_timeout};

/// Takes a snapshot of the sandbox's volume. `None` in a region without snapshots.
async fn take(fixture: &Fixture<'_>, spec: &SandboxSpec) -> Option<(SnapshotId, SnapshotContent)> {
    let snapshot = SnapshotId::generate();
    let taken = within_timeout(fixture.driver.create_snapshot(&spec.sandbox, snapshot)).await;
    if !fixture.driver.capabilities().snapshots {
        assert_eq!(taken.expect_err("no snapshots").failure.kind, FailureKind::Input);
        return None;
    }
    Some((
        snapshot,
        taken.unwrap_or_else(|error| panic!("snapshot: {error} ({:?})", error.cause)),
    ))
}

async fn restore(fixture: &Fixture<'_>, spec: &SandboxSpec, snapshot: SnapshotId) {
    within_timeout(
        fixture
            .driver
            .restore_snapshot(&spec.sandbox, spec.sandbox.volume, snapshot),
    )
    .await
    .unwrap_or_else(|error| panic!("restore: {error} ({:?})", error.cause));
}

pub async fn a_restored_snapshot_brings_back_the_files_of_its_moment(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("restored");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "old").await;
    fixture.write_root(&spec, "root.txt", "old").await;
    let Some((snapshot, _)) = take(fixture, &spec).await else {
        return;
    };
    // Its processes continue after the snapshot.
    fixture.write_home(&spec, "home.txt", "new").await;
    fixture.write_home(&spec, "added.txt", "new").await;
    fixture.write_root(&spec, "root.txt", "new").await;
    fixture.stop(&spec).await;

    // Again, as after a crash of the caller.
    for _ in 0..2 {
        restore(fixture, &spec, snapshot).await;
    }

    fixture.start(&spec).await;
    assert_eq!(fixture.read_home(&spec, "home.txt").await.as_deref(), Some("old"));
    assert_eq!(fixture.read_home(&spec, "added.txt").await, None);
    if fixture.driver.capabilities().keeps_root_files {
        assert_eq!(fixture.read_root(&spec, "root.txt").await.as_deref(), Some("old"));
    }
    // The restored files can be changed, and the snapshot is still there.
    fixture.write_home(&spec, "home.txt", "newer").await;
    fixture.stop(&spec).await;
    restore(fixture, &spec, snapshot).await;
    fixture.start(&spec).await;
    assert_eq!(fixture.read_home(&spec, "home.txt").await.as_deref(), Some("old"));
}

pub async fn a_volume_made_from_a_snapshot_is_independent(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("source");
    let mut branch = fixture.sandbox("source");
    branch.sandbox.project = spec.sandbox.project;
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "old").await;
    fixture.write_root(&spec, "root.txt", "old").await;
    let snapshot = match take(fixture, &spec).await {
        Some((snapshot, _)) => snapshot,
        None => SnapshotId::generate(),
    };
    fixture.write_home(&spec, "home.txt", "new").await;

    // Again, as after a crash of the caller.
    for _ in 0..2 {
        let copied = fixture
            .driver
            .clone_snapshot(spec.sandbox.volume, snapshot, &branch.sandbox);
        let copied = within_timeout(copied).await;
        if !fixture.driver.capabilities().snapshots {
            assert_eq!(copied.expect_err("no snapshots").failure.kind, FailureKind::Input);
            return;
        }
        copied.unwrap_or_else(|error| panic!("copy: {error} ({:?})", error.cause));
    }

    fixture.start(&branch).await;
    assert_eq!(
        fixture.read_home(&branch, "home.txt").await.as_deref(),
        Some("old")
    );
    if fixture.driver.capabilities().keeps_root_files {
        assert_eq!(
            fixture.read_root(&branch, "root.txt").await.as_deref(),
            Some("old")
        );
    }
    fixture.write_home(&branch, "home.txt", "branch").await;
    fixture.write_root(&branch, "root.txt", "branch").await;
    assert_eq!(fixture.read_home(&spec, "home.txt").await.as_deref(), Some("new"));
    assert_eq!(fixture.read_root(&spec, "root.txt").await.as_deref(), Some("old"));

    // Neither needs the other.
    fixture.destroy(&spec).await;
    within_timeout(fixture.driver.remove_volume(spec.sandbox.volume))
        .await
        .expect("the volume is removed");
    assert_eq!(
        fixture.read_home(&branch, "home.txt").await.as_deref(),
        Some("branch")
    );

    let absent = within_timeout(fixture.driver.clone_snapshot(
        spec.sandbox.volume,
        snapshot,
        &fixture.sandbox("absent").sandbox,
    ))
    .await;
    assert_eq!(
        absent.expect_err("no such snapshot").failure.kind,
        FailureKind::Input
    );
}

pub async fn a_volume_gets_the_content_of_another_volumes_snapshot(fixture: &Fixture<'_>) {
    // Where there are no snapshots, a project has one branch alone.
    if !fixture.driver.capabilities().snapshots {
        return;
    }
    let main = fixture.sandbox("main");
    let mut branch = fixture.sandbox("main");
    branch.sandbox.project = main.sandbox.project;
    fixture.start(&main).await;
    fixture.write_home(&main, "home.txt", "main").await;
    fixture.write_root(&main, "root.txt", "main").await;
    fixture.start(&branch).await;
    fixture.write_home(&branch, "home.txt", "branch").await;
    fixture.write_root(&branch, "root.txt", "branch").await;
    let (Some((before, _)), Some((snapshot, _))) = (take(fixture, &main).await, take(fixture, &branch).await)
    else {
        return;
    };
    fixture.stop(&main).await;

    // Again, as after a crash of the caller.
    for _ in 0..2 {
        let replaced = fixture
            .driver
            .restore_snapshot(&main.sandbox, branch.sandbox.volume, snapshot);
        within_timeout(replaced)
            .await
            .unwrap_or_else(|error| panic!("restore: {error} ({:?})", error.cause));
    }

    fixture.start(&main).await;
    let files = async |spec| {
        let home = fixture.read_home(spec, "home.txt").await;
        let root = fixture.read_root(spec, "root.txt").await;
        (
            home,
            root.filter(|_| fixture.driver.capabilities().keeps_root_files),
        )
    };
    let both = |text: &str| {
        let root = fixture.driver.capabilities().keeps_root_files;
        (Some(text.to_owned()), root.then(|| text.to_owned()))
    };
    assert_eq!(files(&main).await, both("branch"));
    // Neither changes the other, and the state before can be restored.
    fixture.write_home(&main, "home.txt", "promoted").await;
    assert_eq!(files(&branch).await, both("branch"));
    fixture.stop(&main).await;
    restore(fixture, &main, before).await;
    fixture.start(&main).await;
    assert_eq!(files(&main).await, both("main"));
}

pub async fn a_change_after_a_snapshot_is_known(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("changed");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "old").await;
    fixture.stop(&spec).await;
    let Some((snapshot, _)) = take(fixture, &spec).await else {
        return;
    };
    let changed = async |since| {
        let asked = within_timeout(fixture.driver.changed_since(&spec.sandbox, since));
        asked.await.expect("an answer")
    };
    assert!(!changed(snapshot).await);

    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "new").await;
    assert!(changed(snapshot).await);

    fixture.stop(&spec).await;
    let (later, _) = take(fixture, &spec).await.expect("a second snapshot");
    assert!(!changed(later).await);
    assert!(changed(snapshot).await);
    let absent = within_timeout(
        fixture
            .driver
            .changed_since(&spec.sandbox, SnapshotId::generate()),
    )
    .await;
    assert_eq!(
        absent.expect_err("no such snapshot").failure.kind,
        FailureKind::Input
    );
}

pub async fn a_repeated_snapshot_is_kept_and_a_deleted_one_is_gone(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("repeated");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "first").await;
    let Some((snapshot, _)) = take(fixture, &spec).await else {
        return;
    };
    fixture.write_home(&spec, "home.txt", "second").await;
    within_timeout(fixture.driver.create_snapshot(&spec.sandbox, snapshot))
        .await
        .expect("a repeated snapshot is no error");
    let (other, _) = take(fixture, &spec).await.expect("a second snapshot");
    let volume = spec.sandbox.volume;
    let mut all = within_timeout(fixture.driver.snapshots(volume))
        .await
        .expect("a list");
    all.sort();
    assert_eq!(all, [snapshot, other]);

    for _ in 0..2 {
        within_timeout(fixture.driver.delete_snapshot(volume, other))
            .await
            .expect("a deletion is idempotent");
    }

    let all = within_timeout(fixture.driver.snapshots(volume))
        .await
        .expect("a list");
    assert_eq!(all, [snapshot]);
    fixture.stop(&spec).await;
    let refused = within_timeout(
        fixture
            .driver
            .restore_snapshot(&spec.sandbox, spec.sandbox.volume, other),
    )
    .await
    .expect_err("it was deleted");
    assert_eq!(refused.failure.kind, FailureKind::Input, "{refused}");
    restore(fixture, &spec, snapshot).await;
    fixture.start(&spec).await;
    assert_eq!(
        fixture.read_home(&spec, "home.txt").await.as_deref(),
        Some("first")
    );
}

pub async fn a_running_sandbox_is_not_restored(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("busy");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "home.txt", "old").await;
    let Some((snapshot, _)) = take(fixture, &spec).await else {
        return;
    };
    fixture.write_home(&spec, "home.txt", "new").await;
    let refused = within_timeout(fixture.driver.restore_snapshot(
        &spec.sandbox,
        spec.sandbox.volume,
        snapshot,
    ))
    .await
    .expect_err("its processes use the files");
    assert_eq!(refused.failure.kind, FailureKind::Transient, "{refused}");
    assert_eq!(fixture.read_home(&spec, "home.txt").await.as_deref(), Some("new"));
}

pub async fn snapshots_are_deleted_with_their_volume(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("snapped");
    fixture.start(&spec).await;
    if take(fixture, &spec).await.is_none() {
        return;
    }
    fixture.destroy(&spec).await;
    let volume = spec.sandbox.volume;
    assert_eq!(
        within_timeout(fixture.driver.snapshots(volume))
            .await
            .expect("a list")
            .len(),
        1
    );
    within_timeout(fixture.driver.remove_volume(volume))
        .await
        .expect("the volume is removed");
    assert_eq!(
        within_timeout(fixture.driver.snapshots(volume))
            .await
            .expect("a list"),
        []
    );
    let refused = within_timeout(
        fixture
            .driver
            .create_snapshot(&spec.sandbox, SnapshotId::generate()),
    )
    .await
    .expect_err("there is no volume");
    assert_eq!(refused.failure.kind, FailureKind::Input, "{refused}");
}

pub async fn a_diff_lists_what_changed_after_a_snapshot(fixture: &Fixture<'_>) {
    let spec = fixture.sandbox("compared");
    fixture.start(&spec).await;
    fixture.write_home(&spec, "changed.txt", "one").await;
    fixture.write_home(&spec, "same.txt", "same").await;
    let Some((before, _)) = take(fixture, &spec).await else {
        return;
    };
    fixture.write_home(&spec, "changed.txt", "three").await;
    fixture.write_home(&spec, "added.txt", "new").await;
    let (after, _) = take(fixture, &spec).await.expect("a second snapshot");

    for to in [None, Some(after)] {
        let found = within_timeout(fixture.driver.diff_snapshot(&spec.sandbox, before, to))
            .await
            .expect("they can be compared");
        let of = |name: &str| {
            let path = format!("{HOME}/{name}");
            let change = found.changes.iter().find(|one| one.path == path)?;
            Some((change.change, change.size_before, change.size))
        };
        assert_eq!(
            of("changed.txt"),
            Some((ChangeKind::Changed, Some(3), Some(5))),
            "{found:?}"
        );
        assert_eq!(of("added.txt"), Some((ChangeKind::Added, None, Some(3))));
        assert_eq!(of("same.txt"), None);
    }
}
