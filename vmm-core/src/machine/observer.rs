//! Those who watch a run: limits, traces, statistics, recorders, debuggers.
//!
//! The run loop shows every exit to each observer before it serves it, and again afterwards with the answer that the guest
//! gets. An observer may look at the vCPU and at memory, and may end the run; it never serves an exit.

use kvm_sys_wrap::{Exit, GuestMemory, Vcpu};

use crate::cpu::exit_counts::ExitCounts;
use crate::machine::end::End;

/// What an observer sees.
#[derive(Debug)]
pub struct ExitView<'a> {
    /// The exit.
    pub exit: &'a Exit,
    /// The vCPU, stopped.
    pub vcpu: &'a Vcpu,
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// Exits so far, this one included.
    pub exits: &'a ExitCounts,
}

/// Watches a run, on the threads of its vCPUs, one exit at a time. Each method does nothing unless it is written.
pub trait Observer: Send {
    /// An exit happened and is not served yet. An answer ends the run instead.
    fn on_exit(&mut self, view: &ExitView<'_>) -> Option<End> {
        let _ = view;
        None
    }

    /// The exit was served. `answer` is what the guest reads: empty unless the exit was a read.
    fn on_served(&mut self, view: &ExitView<'_>, answer: &[u8]) {
        let _ = (view, answer);
    }
}
