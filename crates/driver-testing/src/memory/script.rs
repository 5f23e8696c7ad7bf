//! Fault injection: a script of faults and delays, and the log of calls.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fsa_model::{Failure, FailureKind};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use fsa_driver::Result;

/// An operation of the driver or the databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Observe,
    EnsureNetwork,
    EnsureContainer,
    AwaitServing,
    Stop,
    Destroy,
    RemoveVolume,
    CreateSnapshot,
    DeleteSnapshot,
    RestoreSnapshot,
    CloneSnapshot,
    ListSnapshot,
    OpenSnapshotFile,
    ImportVolume,
    Connect,
    Inventory,
    CheckImage,
    ObserveDatabase,
    EnsureDatabase,
    DropDatabase,
    Checkpoint,
    ReleaseDatabase,
}

impl Call {
    /// Whether it changes the data plane: calls for one subject must not overlap.
    #[must_use]
    pub const fn changes(self) -> bool {
        !matches!(
            self,
            Self::Observe
                | Self::ListSnapshot
                | Self::OpenSnapshotFile
                | Self::Connect
                | Self::Inventory
                | Self::CheckImage
                | Self::ObserveDatabase
                | Self::Checkpoint
        )
    }
}

/// A failure or a delay of a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Fails before any work.
    Fail(Failure),
    /// Fails after half of the work.
    FailHalfway(Failure),
    /// Never returns.
    Hang,
    Delay(Duration),
    /// Waits until the gate is opened, before any work.
    Pause(Gate),
    /// Waits until the gate is opened, after half of the work.
    PauseHalfway(Gate),
}

impl Fault {
    /// A transient failure before any work.
    #[must_use]
    pub fn transient() -> Self {
        Self::Fail(Failure::new(
            FailureKind::Transient,
            "the data plane is busy; it is retried",
        ))
    }

    /// A transient failure after half of the work.
    #[must_use]
    pub fn transient_halfway() -> Self {
        Self::FailHalfway(Failure::new(
            FailureKind::Transient,
            "the data plane broke off; it is retried",
        ))
    }
}

/// Barrier at which a call waits until the test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    reached: Semaphore,
    open: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(GateState {
            reached: Semaphore::new(0),
            open: watch::Sender::new(false),
        }))
    }
}

impl Gate {
    /// Waits until a call has reached the gate. Each call is counted once.
    pub async fn reached(&self) {
        if let Ok(permit) = self.0.reached.acquire().await {
            permit.forget();
        }
    }

    /// Releases the calls that wait, and all later ones.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    async fn apply(&self) {
        self.0.reached.add_permits(1);
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }
}

struct Rule {
    /// `None` for every call that changes the data plane.
    call: Option<Call>,
    /// Number of matching calls before the first one with the fault.
    skip: u32,
    /// Number of calls with the fault; `None` for all.
    times: Option<u32>,
    fault: Fault,
}

/// Script of faults. The first rule that matches a call is applied.
#[derive(Default)]
pub struct Script {
    rules: Mutex<Vec<Rule>>,
}

impl Script {
    /// Applies `fault` to the next `call`.
    pub fn next(&self, call: Call, fault: Fault) {
        self.nth(call, 1, fault);
    }

    /// Applies `fault` to the `n`th `call` from now; 1 is the next.
    pub fn nth(&self, call: Call, n: u32, fault: Fault) {
        self.add(Some(call), n - 1, Some(1), fault);
    }

    /// Applies `fault` to the `n`th call from now that changes the data plane.
    pub fn nth_change(&self, n: u32, fault: Fault) {
        self.add(None, n - 1, Some(1), fault);
    }

    /// Applies `fault` to every later `call`.
    pub fn always(&self, call: Call, fault: Fault) {
        self.add(Some(call), 0, None, fault);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.rules.lock().clear();
    }

    fn add(&self, call: Option<Call>, skip: u32, times: Option<u32>, fault: Fault) {
        self.rules.lock().push(Rule {
            call,
            skip,
            times,
            fault,
        });
    }

    fn take(&self, call: Call) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let mut hit = None;
        for (index, rule) in rules.iter_mut().enumerate() {
            if rule.call.map_or(!call.changes(), |expected| expected != call) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if hit.is_none() {
                hit = Some((index, rule.fault.clone()));
            }
        }
        let (index, fault) = hit?;
        if let Some(times) = &mut rules[index].times {
            *times -= 1;
            if *times == 0 {
                rules.remove(index);
            }
        }
        Some(fault)
    }

    /// Applies the fault that is scripted for the beginning of this call. Returns the one for its middle.
    pub(super) async fn begin_faults(&self, call: Call) -> Result<HalfwayFault> {
        match self.take(call) {
            None => {}
            Some(Fault::Fail(failure)) => return Err(failure.into()),
            Some(Fault::FailHalfway(failure)) => return Ok(HalfwayFault(Some(Halfway::Fail(failure)))),
            Some(Fault::PauseHalfway(gate)) => return Ok(HalfwayFault(Some(Halfway::Pause(gate)))),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Pause(gate)) => gate.apply().await,
        }
        Ok(HalfwayFault(None))
    }
}

enum Halfway {
    Fail(Failure),
    Pause(Gate),
}

/// Fault that is scripted for the middle of a call.
pub(super) struct HalfwayFault(Option<Halfway>);

impl HalfwayFault {
    /// Applies the fault. Yields in any case, so that other tasks run between the halves of a call.
    pub(super) async fn apply(self) -> Result<()> {
        tokio::task::yield_now().await;
        match self.0 {
            None => {}
            Some(Halfway::Fail(failure)) => return Err(failure.into()),
            Some(Halfway::Pause(gate)) => gate.apply().await,
        }
        Ok(())
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    /// The caller dropped its future.
    Dropped,
}

/// Record of a call. The numbers order the beginnings and ends of all calls of a log.
#[derive(Clone, Debug)]
pub struct CallRecord {
    pub call: Call,
    /// A resource name, or a project's id.
    pub subject: String,
    pub began: u64,
    /// `None` while the call is in flight.
    pub ended: Option<(u64, Outcome)>,
}

#[derive(Default)]
struct Records {
    clock: u64,
    all: Vec<CallRecord>,
}

/// Log of calls.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Records>>);

impl Log {
    #[must_use]
    pub fn entries(&self) -> Vec<CallRecord> {
        self.0.lock().all.clone()
    }

    /// Number of `call`s so far.
    #[must_use]
    pub fn count(&self, call: Call) -> usize {
        self.0
            .lock()
            .all
            .iter()
            .filter(|entry| entry.call == call)
            .count()
    }

    /// Drops the records of calls that have ended.
    pub fn clear(&self) {
        self.0.lock().all.retain(|entry| entry.ended.is_none());
    }

    /// Subjects with overlapping changes. Must be empty: two workers must not change one sandbox at a time.
    #[must_use]
    pub fn overlaps(&self) -> BTreeSet<String> {
        let entries = self.0.lock();
        let changes: Vec<_> = entries.all.iter().filter(|entry| entry.call.changes()).collect();
        let mut found = BTreeSet::new();
        for (index, first) in changes.iter().enumerate() {
            let end = first.ended.map_or(u64::MAX, |(end, _)| end);
            // The calls are in order of their beginnings.
            let during = changes[index + 1..]
                .iter()
                .take_while(|second| second.began < end);
            if during.clone().any(|second| second.subject == first.subject) {
                found.insert(first.subject.clone());
            }
        }
        found
    }

    pub(super) fn begin(&self, call: Call, subject: impl ToString) -> CallGuard {
        let mut entries = self.0.lock();
        entries.clock += 1;
        let began = entries.clock;
        entries.all.push(CallRecord {
            call,
            subject: subject.to_string(),
            began,
            ended: None,
        });
        CallGuard {
            log: self.clone(),
            began,
            end: Outcome::Dropped,
        }
    }
}

/// Guard of a call in flight, which ends when the guard is dropped.
pub(super) struct CallGuard {
    log: Log,
    began: u64,
    end: Outcome,
}

impl CallGuard {
    /// Records the outcome.
    pub(super) fn end<T>(mut self, result: Result<T>) -> Result<T> {
        self.end = if result.is_ok() {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        result
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let mut entries = self.log.0.lock();
        entries.clock += 1;
        let ended = Some((entries.clock, self.end));
        // From the newest: most calls are short.
        if let Some(entry) = entries
            .all
            .iter_mut()
            .rev()
            .find(|entry| entry.began == self.began)
        {
            entry.ended = ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_changes_of_one_subject_are_reported() {
        let log = Log::default();
        let first = log.begin(Call::Stop, "a");
        let other = log.begin(Call::Stop, "b");
        let observe = log.begin(Call::Observe, "a");
        let _ = (other.end(Ok(())), observe.end(Ok(())));
        assert!(log.overlaps().is_empty());
        let second = log.begin(Call::Destroy, "a");
        let _ = (first.end(Ok(())), second.end(Ok(())));
        assert_eq!(log.overlaps(), BTreeSet::from(["a".to_owned()]));
    }

    #[test]
    fn sequential_changes_do_not_overlap() {
        let log = Log::default();
        let _ = log.begin(Call::Stop, "a").end(Ok(()));
        drop(log.begin(Call::Destroy, "a"));
        let _ = log.begin(Call::Destroy, "a").end(Ok(()));
        assert!(log.overlaps().is_empty());
        assert_eq!(log.entries()[1].ended, Some((4, Outcome::Dropped)));
    }

    #[tokio::test]
    async fn a_fault_applies_to_the_nth_call_only() {
        let script = Script::default();
        script.nth(Call::Stop, 2, Fault::transient());
        assert!(script.begin_faults(Call::Stop).await.is_ok());
        assert!(script.begin_faults(Call::Destroy).await.is_ok());
        assert!(script.begin_faults(Call::Stop).await.is_err());
        assert!(script.begin_faults(Call::Stop).await.is_ok());
    }
}
