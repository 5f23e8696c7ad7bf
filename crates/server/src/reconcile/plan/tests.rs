//! Planner tests: scenarios for every case of a plan, and properties that hold for all plans.

use ContainerState::{Absent, Running, Starting, Stopped};
use StepKind::{AwaitTerminal, Destroy, EnsureContainer, EnsureDatabase, EnsureNetwork, StopContainer};
use proptest::prelude::*;

use super::*;
use crate::reconcile::step::StepKind;

/// The desired state without the specs, which the planner only passes on.
type Wanted = Desired<(), ()>;

fn new_spec() -> Option<Digested<()>> {
    Some(Digested {
        spec: (),
        digest: "new".into(),
    })
}

fn desired(state: DesiredState) -> Wanted {
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

fn kinds(desired: &Wanted, observed: &ObservedState) -> Vec<StepKind> {
    plan(desired, observed)
        .into_iter()
        .map(|step| step.kind())
        .collect()
}

#[test]
fn a_new_sandbox_gets_everything() {
    assert_eq!(
        kinds(&desired(DesiredState::Running), &nothing()),
        [EnsureDatabase, EnsureNetwork, EnsureContainer, AwaitTerminal]
    );
}

#[test]
fn what_runs_as_wanted_is_left_alone() {
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
fn a_sandbox_that_was_found_running_is_asked_whether_it_answers() {
    let observed = ObservedState {
        terminal: false,
        ..running()
    };
    assert_eq!(kinds(&desired(DesiredState::Running), &observed), [AwaitTerminal]);
}

#[test]
fn a_newer_wish_replaces_a_container_with_other_settings() {
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
fn a_container_that_somebody_else_replaced_is_put_right() {
    let settled = Desired {
        reached: true,
        started_with: Some("old".into()),
        ..desired(DesiredState::Running)
    };
    let observed = ObservedState {
        digest: Some("somebody else's".into()),
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
fn a_container_that_ended_is_started_again_and_that_is_told() {
    let settled = Desired {
        reached: true,
        ..desired(DesiredState::Running)
    };
    for (container, told) in [
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
        assert_eq!(repairs(&settled, &observed), [told]);
    }
}

#[test]
fn a_lost_database_alone_is_made_again_beside_what_runs() {
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
fn a_database_that_cannot_be_asked_is_neither_made_nor_in_the_way() {
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
        "what runs goes on running"
    );
}

#[test]
fn a_lost_network_is_mended_under_what_runs() {
    let observed = ObservedState {
        network: false,
        ..running()
    };
    assert_eq!(kinds(&desired(DesiredState::Running), &observed), [EnsureNetwork]);
}

#[test]
fn a_start_that_never_answers_is_stopped_and_started_anew() {
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
fn a_stop_ends_what_runs_and_what_may_be_starting() {
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
fn a_termination_destroys_even_what_is_not_seen_and_then_rests() {
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
        "what comes back is destroyed again"
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
    fn any_wanted()(
        wish in prop_oneof![Just(DesiredState::Running), Just(DesiredState::Stopped), Just(DesiredState::Terminated)],
        reached: bool, database: bool, stuck: bool,
        old in any::<bool>(),
    ) -> Wanted {
        Desired {
            state: wish,
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
            assert!(world.runs(), "only what runs is waited for");
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
    fn from_anywhere_the_wish_is_reached_in_few_rounds_and_nothing_precious_is_lost(
        mut desired in any_wanted(),
        mut world in any_observed(),
        // Whether the credentials are known before the database exists.
        predictable_credentials: bool,
    ) {
        let (volume, database) = (world.volume, world.database);
        let mut rounds = 0;
        loop {
            let unknown = !predictable_credentials && desired.database.is_some() && world.database != Some(ObservedDatabase::Ready);
            let wanted_now = Desired { spec: desired.spec.clone().filter(|_| !unknown), ..desired.clone() };
            let steps = plan(&wanted_now, &world);
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
    fn the_steps_of_a_plan_are_in_an_order_that_all_may_follow(
        desired in any_wanted(),
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
