//! Prometheus metrics of the reconciliation workers.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{attempt::Outcome, step::StepKind};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: String,
}

/// The metrics of the workers of one process.
#[derive(Clone)]
pub struct Metrics {
    attempts: Family<OutcomeLabels, Counter>,
    duration: Histogram,
    failed_steps: Family<StepLabels, Counter>,
    lost_leases: Counter,
    repairs: Counter,
    swept: Counter,
    pub(super) working: Gauge,
    pub(super) followed: Gauge,
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        Self {
            attempts: Family::default(),
            // 10 ms to 5 min, in seconds.
            duration: Histogram::new([0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0, 5.0, 30.0, 300.0]),
            failed_steps: Family::default(),
            lost_leases: Counter::default(),
            repairs: Counter::default(),
            swept: Counter::default(),
            working: Gauge::default(),
            followed: Gauge::default(),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("reconcile");
        registry.register(
            "attempts",
            "Attempts to reach the desired state, by outcome",
            self.attempts.clone(),
        );
        registry.register(
            "attempt_duration_seconds",
            "Time from a claim to its result",
            self.duration.clone(),
        );
        registry.register("failed_steps", "Failed steps", self.failed_steps.clone());
        registry.register("lost_leases", "Leases lost during work", self.lost_leases.clone());
        registry.register(
            "repairs",
            "Repairs of sandboxes that differed from their desired state",
            self.repairs.clone(),
        );
        registry.register(
            "swept",
            "Orphaned sandboxes that were destroyed",
            self.swept.clone(),
        );
        registry.register("working", "Sandboxes being reconciled", self.working.clone());
        registry.register(
            "followed",
            "Running sandboxes that this process follows",
            self.followed.clone(),
        );
    }

    pub(super) fn attempted(&self, outcome: &Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Reached => "reached",
            Outcome::Waiting => "waiting",
            Outcome::Failed(_) => "failed",
            Outcome::BackingOff(..) => "backing_off",
        };
        self.attempts.get_or_create(&OutcomeLabels { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn step_failed(&self, kind: StepKind) {
        let step = format!("{kind:?}");
        self.failed_steps.get_or_create(&StepLabels { step }).inc();
    }

    pub(super) fn lease_lost(&self) {
        self.lost_leases.inc();
    }

    pub(super) fn repaired(&self) {
        self.repairs.inc();
    }

    pub(super) fn swept(&self) {
        self.swept.inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
