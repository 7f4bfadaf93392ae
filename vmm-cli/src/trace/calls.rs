//! Observes KVM calls, for the trace and for the sums of times.
//!
//! Arguments and results are shown like strace does: descriptors by number, errors by name. Of large structures only
//! the differences from the last value are shown, and at first from the state after reset.
//!
//! The observers make calls of their own, [unobserved](CallWatch::unobserved): those are not part of the run, and count
//! as watching.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_core::cpu::reset_state;
use vmm_core::kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs, kvm_translation};
use vmm_core::kvm_sys_wrap::{Call, CallArgs, CallObserver, CallRecord, CallResult};

use super::event::{CallEvent, TraceEvent};
use super::filter::TraceFilter;
use super::log::Log;
use super::reg_diff;

/// Maximum number of characters shown of one value.
const MAX_CHARACTERS: usize = 200;

thread_local! {
    /// True while the calls of this thread are made by observers.
    static UNOBSERVED: Cell<bool> = const { Cell::new(false) };
    /// Start and duration of the last `KVM_RUN` of this thread's vCPU.
    static LAST_KVM_RUN: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Call observer, used by the threads of all vCPUs.
pub(crate) struct CallWatch {
    started: Instant,
    log: Option<(Arc<Log>, TraceFilter)>,
    /// Number of exits so far.
    exits: AtomicU64,
    state: Mutex<CallState>,
}

struct CallState {
    times: CallTimes,
    regs: kvm_regs,
    sregs: kvm_sregs,
}

/// Number of calls, total time, longest time.
pub(crate) type CallTime = (u64, Duration, Duration);

/// Times of calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallTimes {
    /// Time in `KVM_RUN`.
    pub(crate) run: CallTime,
    /// Time in other calls, by name.
    pub(crate) others: BTreeMap<&'static str, CallTime>,
    /// Time in calls of observers.
    pub(crate) watching: Duration,
}

impl CallTimes {
    /// Returns the times of all calls, by name.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, CallTime)> + '_ {
        let run = (self.run.0 > 0).then_some((Call::Run.name(), self.run));
        self.others.iter().map(|(call, sum)| (*call, *sum)).chain(run)
    }
}

impl CallWatch {
    pub(crate) fn new(log: Option<(Arc<Log>, TraceFilter)>) -> Self {
        let started = Instant::now();
        // RIP and RFLAGS after reset. The other registers are 0 as far as it matters here (SDM vol. 3, table 10-1).
        let regs = kvm_regs { rip: 0xfff0, rflags: 2, ..Default::default() };
        let state = CallState { times: CallTimes::default(), regs, sregs: reset_state::sregs() };
        Self { started, log, exits: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Returns the time at which the observer was created.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Returns the nanoseconds from creation to `instant`.
    pub(crate) fn at_ns(&self, instant: Instant) -> u64 {
        nanoseconds(instant.saturating_duration_since(self.started))
    }

    /// Returns start and duration of this thread's last `KVM_RUN`, in nanoseconds.
    pub(crate) fn last_run(&self) -> (u64, u64) {
        let (begin, length) = LAST_KVM_RUN.get().unwrap_or((self.started, Duration::ZERO));
        (self.at_ns(begin), nanoseconds(length))
    }

    /// Returns the times so far.
    pub(crate) fn times(&self) -> CallTimes {
        self.state().times.clone()
    }

    /// Sets the number of exits so far, for filters.
    pub(crate) fn set_exits(&self, exits: u64) {
        self.exits.store(exits, Ordering::Relaxed);
    }

    /// Makes calls that are not part of the run.
    pub(crate) fn unobserved<T>(&self, make: impl FnOnce() -> T) -> T {
        UNOBSERVED.set(true);
        let result = make();
        UNOBSERVED.set(false);
        result
    }

    fn state(&self) -> MutexGuard<'_, CallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallObserver for CallWatch {
    fn observe(&self, record: &CallRecord<'_>) {
        let CallRecord { call, elapsed, started, .. } = *record;
        let mut state = self.state();
        if UNOBSERVED.get() {
            state.times.watching += elapsed;
            return;
        }
        if call == Call::Run {
            LAST_KVM_RUN.set(Some((started, elapsed)));
        }
        let CallTimes { run, others, .. } = &mut state.times;
        let sum = if call == Call::Run { run } else { others.entry(call.name()).or_default() };
        let (count, sum, longest) = sum;
        (*count, *sum, *longest) = (*count + 1, *sum + elapsed, elapsed.max(*longest));
        let Some((log, filter)) = &self.log else { return };
        if !log.settings.calls.any() || !filter.call(call.name(), self.exits.load(Ordering::Relaxed)) {
            return;
        }
        let arguments = arguments(&record.arguments, &mut state);
        let (result, failed) = match record.result {
            Ok(answer) => (answered(answer, &mut state), false),
            Err(error) => (error.to_string(), true),
        };
        drop(state);
        log.push(TraceEvent::Call(CallEvent {
            at_ns: self.at_ns(started),
            elapsed_ns: nanoseconds(elapsed),
            on: call.fd_kind().to_string(),
            call: call.name(),
            arguments,
            result,
            failed,
        }));
    }
}

fn arguments(arguments: &CallArgs<'_>, state: &mut CallState) -> String {
    match arguments {
        CallArgs::Text(text) => shortened(text.to_string()),
        CallArgs::Regs(regs) => regs_changed(regs, state),
        CallArgs::Sregs(sregs) => sregs_changed(sregs, state),
        CallArgs::Region(region) => {
            let (slot, flags) = (region.slot, region.flags);
            let (guest, size, host) = (region.guest_phys_addr, region.memory_size, region.userspace_addr);
            format!("slot {slot}, flags {flags:#x}, guest {guest:#x}, {size:#x} bytes, host {host:#x}")
        }
    }
}

fn answered(answer: &dyn CallResult, state: &mut CallState) -> String {
    if let Some(regs) = answer.downcast_ref() {
        return regs_changed(regs, state);
    }
    if let Some(sregs) = answer.downcast_ref() {
        return sregs_changed(sregs, state);
    }
    if let Some(kvm_translation { valid, physical_address, .. }) = answer.downcast_ref() {
        return if *valid == 0 { "not mapped".to_owned() } else { format!("{physical_address:#x}") };
    }
    let descriptor = answer.fd().map(|descriptor| format!("fd {descriptor}"));
    let address = || answer.mapped_address().map(|address| format!("{address:#x}"));
    let nothing = || answer.downcast_ref::<()>().map(|()| "0".to_owned());
    descriptor.or_else(address).or_else(nothing).unwrap_or_else(|| shortened(format!("{answer:?}")))
}

fn regs_changed(regs: &kvm_regs, state: &mut CallState) -> String {
    let changes = reg_diff::diff_regs(&state.regs, regs);
    state.regs = *regs;
    changed(&changes)
}

fn sregs_changed(sregs: &kvm_sregs, state: &mut CallState) -> String {
    let changes = reg_diff::diff_sregs(&state.sregs, sregs);
    state.sregs = *sregs;
    changed(&changes)
}

fn changed(changes: &[reg_diff::RegisterChange]) -> String {
    if changes.is_empty() { "{unchanged}".to_owned() } else { format!("{{{}}}", reg_diff::line(changes)) }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{} ...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    // 64 bits of nanoseconds are 584 years.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
