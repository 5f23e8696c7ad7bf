//! Planner tests: scenarios for every case of a plan, and properties that hold for all plans.

use ContainerState::{Absent, Running, Starting, Stopped};
use StepKind::{AwaitTerminal, Destroy, EnsureContainer, EnsureDatabase, EnsureNetwork, StopContainer};
use proptest::prelude::*;

use super::*;
use crate::reconcile::step::StepKind;

/// The desired state without the specs, which the planner only passes on.
type TestDesired = Desired<(), ()>;

fn new_spec() -> Option<Digested<()>> {
    Some(Digested {
        spec: (),
        digest: "new".into(),
    })
}

fn desired(state: DesiredState) -> TestDesired {
    Desired {
        state,
        reached: false,
        spec: new_spec(),
        started_with: None,
        database: Some(()),
        stuck: false,
    }
}

fn running() -> ObservedState {
    ObservedState {
        container: Running,
        digest: Some("new".into()),
        network: true,
        volume: true,
        database: Some(ObservedDatabase::Ready),
        terminal: true,
    }
}

fn nothing() -> ObservedState {
    ObservedState {
        container: Absent,
        digest: None,
        network: false,
        volume: false,
        database: Some(ObservedDatabase::Absent),
        terminal: false,
    }
}

fn kinds(desired: &TestDesired, observed: &ObservedState) -> Vec<StepKind> {
    plan(desired, observed)
        .into_iter()
        .map(|step| step.kind())
        .collect()
}

#[test]
fn a_new_sandbox_gets_all_steps() {
    assert_eq!(
        kinds(&desired(DesiredState::Running), &nothing()),
        [EnsureDatabase, EnsureNetwork, EnsureContainer, AwaitTerminal]
    );
}

#[test]
fn a_sandbox_in_its_desired_state_gets_no_steps() {
    assert_eq!(kinds(&desired(DesiredState::Running), &running()), []);
}

#[test]
fn a_project_without_a_database_gets_none() {
    let without = Desired {
        database: None,
        ..desired(DesiredState::Running)
    };
    assert_eq!(
        kinds(&without, &nothing()),
        [EnsureNetwork, EnsureContainer, AwaitTerminal]
    );
}

#[test]
fn an_adopted_sandbox_waits_for_its_terminal() {
    let observed = ObservedState {
        terminal: false,
        ..running()
    };
    assert_eq!(kinds(&desired(DesiredState::Running), &observed), [AwaitTerminal]);
}

#[test]
fn a_new_generation_replaces_a_container_with_other_settings() {
    let observed = ObservedState {
        digest: Some("old".into()),
        ..running()
    };
    assert_eq!(
        kinds(&desired(DesiredState::Running), &observed),
        [EnsureNetwork, EnsureContainer, AwaitTerminal]
    );
}

#[test]
fn a_changed_default_of_the_server_restarts_nothing() {
    let settled = Desired {
        reached: true,
        started_with: Some("old".into()),
        ..desired(DesiredState::Running)
    };
    let observed = ObservedState {
        digest: Some("old".into()),
        ..running()
    };
    assert_eq!(kinds(&settled, &observed), []);
    assert!(repairs(&settled, &observed).is_empty());
}

#[test]
fn a_replaced_container_is_repaired() {
    let settled = Desired {
        reached: true,
        started_with: Some("old".into()),
        ..desired(DesiredState::Running)
    };
    let observed = ObservedState {
        digest: Some("foreign".into()),
        ..running()
    };
    assert_eq!(
        kinds(&settled, &observed),
        [EnsureNetwork, EnsureContainer, AwaitTerminal]
    );
    assert_eq!(
        repairs(&settled, &observed),
        ["its container had been replaced by a different one"]
    );
}

#[test]
fn an_ended_container_is_restarted_and_reported() {
    let settled = Desired {
        reached: true,
        ..desired(DesiredState::Running)
    };
    for (container, repair) in [
        (Absent, "its container was gone"),
        (Stopped, "its container had ended"),
    ] {
        let observed = ObservedState {
            container,
            terminal: false,
            ..running()
        };
        assert_eq!(
            kinds(&settled, &observed),
            [EnsureNetwork, EnsureContainer, AwaitTerminal]
        );
        assert_eq!(repairs(&settled, &observed), [repair]);
    }
}

#[test]
fn a_lost_database_is_recreated_without_a_restart() {
    let observed = ObservedState {
        database: Some(ObservedDatabase::Absent),
        ..running()
    };
    assert_eq!(
        kinds(&desired(DesiredState::Running), &observed),
        [EnsureDatabase]
    );
}

#[test]
fn an_unobserved_database_is_skipped() {
    let observed = ObservedState {
        database: None,
        ..nothing()
    };
    assert_eq!(
        kinds(&desired(DesiredState::Running), &observed),
        [EnsureNetwork, EnsureContainer, AwaitTerminal]
    );
}

#[test]
fn without_credentials_the_container_waits_for_the_database() {
    let unknown = Desired {
        spec: None,
        ..desired(DesiredState::Running)
    };
    assert_eq!(kinds(&unknown, &nothing()), [EnsureDatabase]);
    let observed = ObservedState {
        database: Some(ObservedDatabase::Absent),
        ..running()
    };
    assert_eq!(
        kinds(&unknown, &observed),
        [EnsureDatabase],
        "a running container keeps running"
    );
}

#[test]
fn a_lost_network_is_repaired_without_a_restart() {
    let observed = ObservedState {
        network: false,
        ..running()
    };
    assert_eq!(kinds(&desired(DesiredState::Running), &observed), [EnsureNetwork]);
}

#[test]
fn a_stuck_start_is_stopped_first() {
    let stuck = Desired {
        stuck: true,
        ..desired(DesiredState::Running)
    };
    let observed = ObservedState {
        terminal: false,
        ..running()
    };
    assert_eq!(kinds(&stuck, &observed), [StopContainer]);
}

#[test]
fn a_stop_also_ends_starts_in_flight() {
    let fresh = desired(DesiredState::Stopped);
    let settled = Desired {
        reached: true,
        ..fresh.clone()
    };
    for container in [Absent, Stopped, Starting, Running] {
        let observed = ObservedState {
            container,
            ..running()
        };
        assert_eq!(kinds(&fresh, &observed), [StopContainer], "{container:?}");
        let again: &[StepKind] = if observed.runs() { &[StopContainer] } else { &[] };
        assert_eq!(kinds(&settled, &observed), again, "{container:?}");
    }
}

#[test]
fn a_termination_also_destroys_unobserved_resources() {
    let fresh = desired(DesiredState::Terminated);
    let settled = Desired {
        reached: true,
        ..fresh.clone()
    };
    assert_eq!(kinds(&fresh, &nothing()), [Destroy]);
    assert_eq!(kinds(&settled, &nothing()), []);
    assert_eq!(
        kinds(&settled, &running()),
        [Destroy],
        "a container that reappears is destroyed again"
    );
}

fn any_container() -> impl Strategy<Value = ContainerState> {
    prop_oneof![Just(Absent), Just(Stopped), Just(Starting), Just(Running)]
}

fn any_database() -> impl Strategy<Value = ObservedDatabase> {
    prop_oneof![
        Just(ObservedDatabase::Absent),
        Just(ObservedDatabase::Partial),
        Just(ObservedDatabase::Ready)
    ]
}

prop_compose! {
    fn any_observed()(
        container in any_container(),
        digest in prop_oneof![Just("new"), Just("old"), Just("else")],
        network: bool, volume: bool, terminal: bool,
        database in any_database(),
    ) -> ObservedState {
        let runs = matches!(container, Starting | Running);
        ObservedState {
            container,
            digest: (container != Absent).then(|| digest.to_owned()),
            network,
            volume,
            database: Some(database),
            terminal: runs && terminal,
        }
    }
}

prop_compose! {
    fn any_desired()(
        state in prop_oneof![Just(DesiredState::Running), Just(DesiredState::Stopped), Just(DesiredState::Terminated)],
        reached: bool, database: bool, stuck: bool,
        old in any::<bool>(),
    ) -> TestDesired {
        Desired {
            state,
            reached,
            spec: new_spec(),
            started_with: (reached && old).then(|| "old".to_owned()),
            database: database.then_some(()),
            stuck,
        }
    }
}

/// Applies a successful step to the simulated state.
fn apply(world: &mut ObservedState, kind: StepKind, digest: &str) {
    match kind {
        EnsureDatabase => world.database = Some(ObservedDatabase::Ready),
        EnsureNetwork => world.network = true,
        EnsureContainer => {
            assert!(world.network, "a container is started in a network");
            world.container = Running;
            world.digest = Some(digest.to_owned());
            world.volume = true;
            world.terminal = false;
        }
        AwaitTerminal => {
            assert!(world.runs(), "only a running container is waited for");
            world.container = Running;
            world.terminal = true;
        }
        StopContainer => {
            if world.container != Absent {
                world.container = Stopped;
            }
            world.network = false;
            world.terminal = false;
        }
        Destroy => {
            world.container = Absent;
            world.digest = None;
            world.network = false;
            world.terminal = false;
        }
        StepKind::RemoveVolume | StepKind::DropDatabase => {
            unreachable!("only a deleted project loses its volume and its database")
        }
    }
}

proptest! {
    #[test]
    fn plans_converge_and_keep_volume_and_database(
        mut desired in any_desired(),
        mut world in any_observed(),
        // Whether the credentials are known before the database exists.
        predictable_credentials: bool,
    ) {
        let (volume, database) = (world.volume, world.database);
        let mut rounds = 0;
        loop {
            let unknown = !predictable_credentials && desired.database.is_some() && world.database != Some(ObservedDatabase::Ready);
            let desired_now = Desired { spec: desired.spec.clone().filter(|_| !unknown), ..desired.clone() };
            let steps = plan(&desired_now, &world);
            if steps.is_empty() {
                break;
            }
            for step in &steps {
                apply(&mut world, step.kind(), "new");
                // The flag refers to the last start.
                if matches!(step.kind(), StopContainer | EnsureContainer) {
                    desired.stuck = false;
                }
            }
            // A worker records this after a successful stop or termination.
            if desired.state != DesiredState::Running {
                desired.reached = true;
            }
            rounds += 1;
            prop_assert!(rounds <= 3, "{desired:?} {world:?}");
        }
        match desired.state {
            DesiredState::Running => {
                prop_assert_eq!(world.container, Running);
                prop_assert!(world.network && world.terminal);
                prop_assert!(desired.accepts(world.digest.as_deref()));
                prop_assert!(desired.database.is_none() || world.database == Some(ObservedDatabase::Ready));
            }
            DesiredState::Stopped => prop_assert!(!world.runs()),
            DesiredState::Terminated => prop_assert!(world.container == Absent && !world.network),
        }
        prop_assert!(world.volume || !volume);
        if database == Some(ObservedDatabase::Ready) {
            prop_assert_eq!(world.database, database);
        }
    }

    #[test]
    fn the_order_of_a_plan_respects_dependencies(
        desired in any_desired(),
        world in any_observed(),
        predictable_credentials: bool,
    ) {
        let steps: Vec<_> = plan(&desired, &world).into_iter().map(|step| step.kind()).collect();
        for (index, kind) in steps.iter().enumerate() {
            for earlier in kind.after(predictable_credentials) {
                prop_assert!(!steps[index..].contains(earlier));
            }
            prop_assert_eq!(steps.iter().filter(|other| *other == kind).count(), 1);
        }
    }
}
