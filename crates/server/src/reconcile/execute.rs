//! Plan execution: runs each step as soon as the steps before it are done.
//!
//! The steps run inside [`Execution::next`], in the task of its caller. Dropping the
//! execution drops the steps wherever they are; that is how a newer generation interrupts an older one.

use std::{collections::VecDeque, time::Duration};

use fsa_driver::{DriverError, Result};
use fsa_model::FailureKind;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::step::StepKind;

/// The timeout of a step. A container may wait for its image to be pulled, and a database for a cluster to be
/// created; every other step takes moments if it succeeds.
#[must_use]
pub const fn timeout(kind: StepKind) -> Duration {
    Duration::from_secs(match kind {
        StepKind::EnsureContainer => 900,
        StepKind::EnsureDatabase => 600,
        // In a cluster, changes are queued.
        StepKind::AwaitTerminal
        | StepKind::Destroy
        | StepKind::DropDatabase
        | StepKind::RemoveVolume
        | StepKind::StopContainer
        | StepKind::EnsureNetwork => 120,
    })
}

/// What happened to a step.
#[derive(Debug)]
pub enum StepProgress {
    Began(StepKind),
    Done(StepKind),
    Failed(StepKind, DriverError),
}

/// A step's work. It does nothing before it is polled.
pub type Work<'a> = BoxFuture<'a, Result<()>>;

/// A plan in execution.
pub struct Execution<'a> {
    planned: Vec<StepKind>,
    waiting: Vec<(StepKind, Work<'a>)>,
    running: FuturesUnordered<BoxFuture<'a, (StepKind, Result<()>)>>,
    began: VecDeque<StepKind>,
    done: Vec<StepKind>,
    predictable_credentials: bool,
    timeout: fn(StepKind) -> Duration,
}

impl<'a> Execution<'a> {
    /// Nothing runs before [`Self::next`] is called.
    #[must_use]
    pub fn new(steps: Vec<(StepKind, Work<'a>)>, predictable_credentials: bool) -> Self {
        Self {
            planned: steps.iter().map(|(kind, _)| *kind).collect(),
            waiting: steps,
            running: FuturesUnordered::new(),
            began: VecDeque::new(),
            done: Vec::new(),
            predictable_credentials,
            timeout,
        }
    }

    /// The next progress; `None` when no step can run any more: every step is done, or waits for a step
    /// that failed. May be dropped and called again.
    pub async fn next(&mut self) -> Option<StepProgress> {
        self.begin();
        if let Some(kind) = self.began.pop_front() {
            return Some(StepProgress::Began(kind));
        }
        let (kind, result) = self.running.next().await?;
        Some(match result {
            Ok(()) => {
                self.done.push(kind);
                StepProgress::Done(kind)
            }
            Err(error) => StepProgress::Failed(kind, error),
        })
    }

    fn begin(&mut self) {
        let may_begin = |kind: StepKind| {
            kind.after(self.predictable_credentials)
                .iter()
                .all(|earlier| self.done.contains(earlier) || !self.planned.contains(earlier))
        };
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(kind, _)| may_begin(*kind));
        self.waiting = waiting;
        for (kind, work) in ready {
            let timeout = (self.timeout)(kind);
            self.began.push_back(kind);
            self.running.push(
                async move {
                    let result = tokio::time::timeout(timeout, work).await;
                    (kind, result.unwrap_or_else(|_| Err(too_long(kind, timeout))))
                }
                .boxed(),
            );
        }
    }
}

fn too_long(kind: StepKind, timeout: Duration) -> DriverError {
    let what = match kind {
        StepKind::EnsureDatabase => "The database was not ready",
        StepKind::EnsureNetwork => "The network was not ready",
        StepKind::EnsureContainer => "The container was not started",
        StepKind::AwaitTerminal => "The terminal did not answer",
        StepKind::StopContainer => "The container did not stop",
        StepKind::Destroy => "The sandbox was not removed",
        StepKind::RemoveVolume => "The home volume was not removed",
        StepKind::DropDatabase => "The database was not removed",
    };
    DriverError::new(
        FailureKind::Transient,
        format!("{what} within {} seconds; retrying.", timeout.as_secs()),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use StepKind::{AwaitTerminal, EnsureContainer, EnsureDatabase, EnsureNetwork};
    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;

    /// Steps that each run `work`.
    fn steps<'a, F>(kinds: &[StepKind], work: impl Fn(StepKind) -> F) -> Vec<(StepKind, Work<'a>)>
    where
        F: Future<Output = Result<()>> + Send + 'a,
    {
        kinds.iter().map(|&kind| (kind, work(kind).boxed())).collect()
    }

    const START: [StepKind; 4] = [EnsureDatabase, EnsureNetwork, EnsureContainer, AwaitTerminal];

    /// Runs to the end; the result shows the order in which steps began (`+`), ended (`-`) and failed (`!`).
    async fn progress_of(execution: &mut Execution<'_>) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(progress) = execution.next().await {
            all.push(match progress {
                StepProgress::Began(kind) => format!("+{kind:?}"),
                StepProgress::Done(kind) => format!("-{kind:?}"),
                StepProgress::Failed(kind, _) => format!("!{kind:?}"),
            });
        }
        all
    }

    #[tokio::test]
    async fn each_step_begins_after_its_dependencies() {
        let mut execution = Execution::new(steps(&START, |_| async { Ok(()) }), true);
        assert_eq!(
            progress_of(&mut execution).await,
            [
                "+EnsureDatabase",
                "+EnsureNetwork",
                "-EnsureDatabase",
                "-EnsureNetwork",
                "+EnsureContainer",
                "-EnsureContainer",
                "+AwaitTerminal",
                "-AwaitTerminal"
            ]
        );
    }

    #[tokio::test]
    async fn a_slow_database_does_not_delay_the_container() {
        let terminal_done = Arc::new(Semaphore::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let work = |kind| {
            let (terminal_done, order) = (Arc::clone(&terminal_done), Arc::clone(&order));
            async move {
                if kind == EnsureDatabase {
                    terminal_done
                        .acquire()
                        .await
                        .expect("the semaphore is open")
                        .forget();
                }
                order.lock().push(kind);
                if kind == AwaitTerminal {
                    terminal_done.add_permits(1);
                }
                Ok(())
            }
        };
        let mut execution = Execution::new(steps(&START, work), true);
        while execution.next().await.is_some() {}
        assert_eq!(
            *order.lock(),
            [EnsureNetwork, EnsureContainer, AwaitTerminal, EnsureDatabase]
        );
    }

    #[tokio::test]
    async fn the_container_waits_for_unknown_credentials() {
        let order = Mutex::new(Vec::new());
        let order_of = &order;
        let work = |kind| async move {
            order_of.lock().push(kind);
            Ok(())
        };
        let mut execution = Execution::new(steps(&START, work), false);
        while execution.next().await.is_some() {}
        assert_eq!(
            *order.lock(),
            [EnsureDatabase, EnsureNetwork, EnsureContainer, AwaitTerminal]
        );
    }

    #[tokio::test]
    async fn dependents_of_a_failed_step_do_not_run() {
        let work = |kind| async move {
            if kind == EnsureNetwork {
                return Err(DriverError::new(FailureKind::Machine, "no network"));
            }
            Ok(())
        };
        let mut execution = Execution::new(steps(&START, work), true);
        assert_eq!(
            progress_of(&mut execution).await,
            [
                "+EnsureDatabase",
                "+EnsureNetwork",
                "-EnsureDatabase",
                "!EnsureNetwork"
            ]
        );
    }

    #[tokio::test]
    async fn a_hanging_step_times_out() {
        let mut execution = Execution::new(steps(&[EnsureNetwork], |_| std::future::pending()), true);
        execution.timeout = |_| Duration::from_millis(1);
        assert_eq!(
            progress_of(&mut execution).await,
            ["+EnsureNetwork", "!EnsureNetwork"]
        );
    }
}
