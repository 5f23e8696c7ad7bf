//! Fault injection: faults and delays that a test scripts, and the log of calls.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fsa_model::{Failure, FailureKind};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use fsa_driver::Result;

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Observe,
    EnsureNetwork,
    EnsureContainer,
    AwaitServing,
    Stop,
    Destroy,
    RemoveVolume,
    Connect,
    Inventory,
    CheckImage,
    ObserveDatabase,
    EnsureDatabase,
    DropDatabase,
}

impl Call {
    /// Whether it changes the world, so that no two of one subject may overlap.
    #[must_use]
    pub const fn changes(self) -> bool {
        !matches!(
            self,
            Self::Observe | Self::Connect | Self::Inventory | Self::CheckImage | Self::ObserveDatabase
        )
    }
}

/// What goes wrong, or takes its time.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is done.
    Fail(Failure),
    /// Half of it is done.
    FailHalfway(Failure),
    /// It never answers.
    Hang,
    Delay(Duration),
    /// It waits until the gate is opened, before anything is done.
    Pause(Gate),
    /// The same when half of it is done.
    PauseHalfway(Gate),
}

impl Fault {
    /// A failure that may pass.
    #[must_use]
    pub fn passing() -> Self {
        Self::Fail(Failure::new(
            FailureKind::Transient,
            "the data plane is busy; it is tried again",
        ))
    }

    /// The same, in the middle of the work.
    #[must_use]
    pub fn passing_halfway() -> Self {
        Self::FailHalfway(Failure::new(
            FailureKind::Transient,
            "the data plane broke off; it is tried again",
        ))
    }
}

/// Where a call waits until a test lets it go on.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reached: Semaphore,
    open: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Inner {
            reached: Semaphore::new(0),
            open: watch::Sender::new(false),
        }))
    }
}

impl Gate {
    /// Waits until a call has come to the gate; each arrival counts once.
    pub async fn reached(&self) {
        if let Ok(permit) = self.0.reached.acquire().await {
            permit.forget();
        }
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    async fn pass(&self) {
        self.0.reached.add_permits(1);
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }
}

struct Rule {
    /// `None` for whatever changes the world.
    call: Option<Call>,
    /// Calls to let by before the first that it meets.
    skip: u32,
    /// Calls that it meets; `None` for all.
    times: Option<u32>,
    fault: Fault,
}

/// The faults to come. The first rule that fits a call has it.
#[derive(Default)]
pub struct Script {
    rules: Mutex<Vec<Rule>>,
}

impl Script {
    /// The next `call` meets `fault`.
    pub fn next(&self, call: Call, fault: Fault) {
        self.nth(call, 1, fault);
    }

    /// The `n`th `call` from now (1 is the next) meets `fault`.
    pub fn nth(&self, call: Call, n: u32, fault: Fault) {
        self.add(Some(call), n - 1, Some(1), fault);
    }

    /// The `n`th call from now that changes the world meets `fault`.
    pub fn nth_change(&self, n: u32, fault: Fault) {
        self.add(None, n - 1, Some(1), fault);
    }

    /// Every `call` from now on meets `fault`.
    pub fn always(&self, call: Call, fault: Fault) {
        self.add(Some(call), 0, None, fault);
    }

    /// Nothing goes wrong any more.
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
            if rule
                .call
                .map_or(!call.changes(), |desired_state| desired_state != call)
            {
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

    /// Lives through what is scripted for the beginning of this call. Gives what is scripted for
    /// its middle.
    pub(super) async fn play(&self, call: Call) -> Result<Middle> {
        match self.take(call) {
            None => {}
            Some(Fault::Fail(failure)) => return Err(failure.into()),
            Some(Fault::FailHalfway(failure)) => return Ok(Middle(Some(Halfway::Fail(failure)))),
            Some(Fault::PauseHalfway(gate)) => return Ok(Middle(Some(Halfway::Pause(gate)))),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Pause(gate)) => gate.pass().await,
        }
        Ok(Middle(None))
    }
}

enum Halfway {
    Fail(Failure),
    Pause(Gate),
}

/// What is scripted for the middle of a call.
pub(super) struct Middle(Option<Halfway>);

impl Middle {
    /// Lives through it. Others may run meanwhile, whatever is scripted.
    pub(super) async fn pass(self) -> Result<()> {
        tokio::task::yield_now().await;
        match self.0 {
            None => {}
            Some(Halfway::Fail(failure)) => return Err(failure.into()),
            Some(Halfway::Pause(gate)) => gate.pass().await,
        }
        Ok(())
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    Failed,
    /// Its caller went away.
    Dropped,
}

/// One call. The numbers order beginnings and ends of all calls of one log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub call: Call,
    /// A resource name, or a project's id.
    pub subject: String,
    pub began: u64,
    /// `None` while it goes on.
    pub ended: Option<(u64, End)>,
}

#[derive(Default)]
struct Entries {
    clock: u64,
    all: Vec<Entry>,
}

/// What was called when.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Entries>>);

impl Log {
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().all.clone()
    }

    /// How often `call` was begun.
    #[must_use]
    pub fn count(&self, call: Call) -> usize {
        self.0
            .lock()
            .all
            .iter()
            .filter(|entry| entry.call == call)
            .count()
    }

    /// Forgets what was called so far, except what still goes on.
    pub fn clear(&self) {
        self.0.lock().all.retain(|entry| entry.ended.is_none());
    }

    /// Subjects on which two changes went on at the same time. There should be none: two workers
    /// never act on one sandbox.
    #[must_use]
    pub fn overlaps(&self) -> BTreeSet<String> {
        let entries = self.0.lock();
        let changes: Vec<_> = entries.all.iter().filter(|entry| entry.call.changes()).collect();
        let mut found = BTreeSet::new();
        for (index, first) in changes.iter().enumerate() {
            let end = first.ended.map_or(u64::MAX, |(end, _)| end);
            // In order of their beginnings, so only what began before `first` ended is left.
            let during = changes[index + 1..]
                .iter()
                .take_while(|second| second.began < end);
            if during.clone().any(|second| second.subject == first.subject) {
                found.insert(first.subject.clone());
            }
        }
        found
    }

    pub(super) fn begin(&self, call: Call, subject: impl ToString) -> Ongoing {
        let mut entries = self.0.lock();
        entries.clock += 1;
        let began = entries.clock;
        entries.all.push(Entry {
            call,
            subject: subject.to_string(),
            began,
            ended: None,
        });
        Ongoing {
            log: self.clone(),
            began,
            end: End::Dropped,
        }
    }
}

/// A call that goes on; ends when it is dropped.
pub(super) struct Ongoing {
    log: Log,
    began: u64,
    end: End,
}

impl Ongoing {
    /// Notes how it ended.
    pub(super) fn end<T>(mut self, result: Result<T>) -> Result<T> {
        self.end = if result.is_ok() { End::Done } else { End::Failed };
        result
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let mut entries = self.log.0.lock();
        entries.clock += 1;
        let ended = Some((entries.clock, self.end));
        // Searched from the newest: most calls are short.
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
    fn two_changes_of_one_subject_at_the_same_time_are_found() {
        let log = Log::default();
        let first = log.begin(Call::Stop, "a");
        let other = log.begin(Call::Stop, "b");
        let look = log.begin(Call::Observe, "a");
        let _ = (other.end(Ok(())), look.end(Ok(())));
        assert!(log.overlaps().is_empty());
        let second = log.begin(Call::Destroy, "a");
        let _ = (first.end(Ok(())), second.end(Ok(())));
        assert_eq!(log.overlaps(), BTreeSet::from(["a".to_owned()]));
    }

    #[test]
    fn one_after_the_other_is_no_overlap() {
        let log = Log::default();
        let _ = log.begin(Call::Stop, "a").end(Ok(()));
        drop(log.begin(Call::Destroy, "a"));
        let _ = log.begin(Call::Destroy, "a").end(Ok(()));
        assert!(log.overlaps().is_empty());
        assert_eq!(log.entries()[1].ended, Some((4, End::Dropped)));
    }

    #[tokio::test]
    async fn the_nth_call_meets_its_fault_and_no_other_does() {
        let script = Script::default();
        script.nth(Call::Stop, 2, Fault::passing());
        assert!(script.play(Call::Stop).await.is_ok());
        assert!(script.play(Call::Destroy).await.is_ok());
        assert!(script.play(Call::Stop).await.is_err());
        assert!(script.play(Call::Stop).await.is_ok());
    }
}
