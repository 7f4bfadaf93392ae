//! `run --timing`: duration of each step of a run, and of its KVM calls.
//!
//! A step ends where the next begins. Only the kernel's work before the program's first instruction and after its last
//! is missing. Without the option, no clock is read and no observer installed.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Serialize, Serializer};
use vmm_core::kvm_sys_wrap::{Call, CallObserver, CallRecord, Kvm};

/// Profile of one run.
#[derive(Debug, Default)]
pub(crate) struct RunProfile(Option<ProfileState>);

#[derive(Debug)]
struct ProfileState {
    since: Instant,
    steps: Vec<ProfileStep>,
    calls: Arc<CallTotals>,
}

/// Steps of a run in their order.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ProfileReport {
    /// Duration of each step.
    steps: Vec<ProfileStep>,
}

/// One step.
#[derive(Debug, Serialize)]
struct ProfileStep {
    name: &'static str,
    #[serde(rename = "ns", serialize_with = "nanoseconds")]
    time: Duration,
    /// KVM calls in the step, in the order of the first of each kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    calls: Vec<CallTotal>,
}

/// All calls of one kind in a step.
#[derive(Debug, Clone, Serialize)]
struct CallTotal {
    call: &'static str,
    count: u64,
    #[serde(rename = "ns", serialize_with = "nanoseconds")]
    time: Duration,
}

/// Call observer that adds up durations.
#[derive(Debug, Default)]
struct CallTotals {
    sums: Mutex<Vec<CallTotal>>,
}

/// Name of the first KVM_RUN, which is slower than the following ones and has a line of its own.
const FIRST_RUN: &str = "KVM_RUN, the first";

impl RunProfile {
    /// Starts if `asked`. The first step is the start of the program and its command line.
    pub(crate) fn new(asked: bool) -> Self {
        if !asked {
            return Self(None);
        }
        // There was one thread so far and it never waited, so its CPU time is the time since the program was loaded.
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = Duration::from_secs(cpu.tv_sec.try_into().unwrap_or_default());
        let time = seconds + Duration::from_nanos(cpu.tv_nsec.try_into().unwrap_or_default());
        let begin = ProfileStep { name: "program and command line", time, calls: Vec::new() };
        Self(Some(ProfileState { since: Instant::now(), steps: vec![begin], calls: Arc::default() }))
    }

    /// Opens `/dev/kvm` with a call observer. Returns `None` if nothing is measured.
    ///
    /// # Errors
    /// See [`Kvm::open`].
    pub(crate) fn open_kvm(&self) -> Option<Result<Kvm, vmm_core::kvm_sys_wrap::Error>> {
        let calls = Arc::clone(&self.0.as_ref()?.calls);
        Some(Kvm::open_with(Path::new(Kvm::DEVICE), Some(calls as Arc<dyn CallObserver>)))
    }

    /// Ends a step.
    pub(crate) fn step(&mut self, name: &'static str) {
        if let Some(running) = &mut self.0 {
            let now = Instant::now();
            let calls = std::mem::take(&mut *running.calls.lock());
            running.steps.push(ProfileStep { name, time: now.duration_since(running.since), calls });
            running.since = now;
        }
    }

    /// Returns the steps; `None` if nothing was measured.
    pub(crate) fn finish(self) -> Option<ProfileReport> {
        self.0.map(|running| ProfileReport { steps: running.steps })
    }
}

impl CallTotals {
    fn lock(&self) -> MutexGuard<'_, Vec<CallTotal>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallObserver for CallTotals {
    fn observe(&self, record: &CallRecord<'_>) {
        let mut sums = self.lock();
        let is_first = record.call == Call::Run && !sums.iter().any(|sum| sum.call == FIRST_RUN);
        let call = if is_first { FIRST_RUN } else { record.call.name() };
        match sums.iter_mut().find(|sum| sum.call == call) {
            Some(sum) => (sum.count, sum.time) = (sum.count + 1, sum.time + record.elapsed),
            None => sums.push(CallTotal { call, count: 1, time: record.elapsed }),
        }
    }
}

impl fmt::Display for ProfileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: Duration = self.steps.iter().map(|step| step.time).sum();
        writeln!(f, "where the time went:")?;
        for ProfileStep { name, time, calls } in &self.steps {
            writeln!(f, "{}  {name}", microseconds(*time))?;
            for CallTotal { call, count, time } in calls {
                let times = if *count == 1 { String::new() } else { format!(", {count} times") };
                writeln!(f, "  {}    {call}{times}", microseconds(*time))?;
            }
        }
        writeln!(f, "{}  in all", microseconds(total))
    }
}

fn microseconds(time: Duration) -> String {
    format!("{:>11.1} us", time.as_secs_f64() * 1e6)
}

fn nanoseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(calls: &CallTotals, call: Call, microseconds: u64) {
        let (started, elapsed) = (Instant::now(), Duration::from_micros(microseconds));
        let arguments = format_args!("").into();
        calls.observe(&CallRecord { call, arguments, result: Ok(&()), started, elapsed });
    }

    #[test]
    fn nobody_asked_nothing_measured() {
        let mut timing = RunProfile::new(false);
        timing.step("a");
        assert!(timing.finish().is_none());
    }

    #[test]
    fn each_step_has_its_own_calls_and_the_first_run_its_own_line() {
        let mut timing = RunProfile::new(true);
        let calls = Arc::clone(&timing.0.as_ref().unwrap().calls);
        observe(&calls, Call::CreateVm, 100);
        timing.step("machine");
        for microseconds in [50, 7, 8] {
            observe(&calls, Call::Run, microseconds);
        }
        timing.step("run");
        let steps = timing.finish().unwrap();
        let names: Vec<_> = steps.steps.iter().map(|step| step.name).collect();
        assert_eq!(names, ["program and command line", "machine", "run"]);
        let sums = |step: usize| -> Vec<(&str, u64, u64)> {
            let sums = steps.steps[step].calls.iter();
            sums.map(|sum| (sum.call, sum.count, u64::try_from(sum.time.as_micros()).unwrap())).collect()
        };
        assert_eq!(sums(1), [("KVM_CREATE_VM", 1, 100)]);
        assert_eq!(sums(2), [(FIRST_RUN, 1, 50), ("KVM_RUN", 2, 15)]);
        let text = steps.to_string();
        assert!(text.contains("      15.0 us    KVM_RUN, 2 times\n"), "{text}");
    }
}
