//! Observers of a run: traces, statistics, recorders.
//!
//! The run loop calls each observer before it serves an exit, and again afterwards with the answer that the guest gets. An
//! observer may read the vCPU and memory, and may end the run; it never serves an exit.

use kvm_sys_wrap::{Exit, GuestMemory, Vcpu};

use crate::cpu::exit_counts::ExitCounts;
use crate::devices::InterruptSource;
use crate::machine::end::End;

/// Exit of a vCPU for an observer, with the stopped vCPU and memory at that exit.
#[derive(Debug)]
pub struct ExitView<'a> {
    /// Exit that is handled.
    pub exit: &'a Exit,
    /// vCPU whose `KVM_RUN` exited.
    pub vcpu: &'a Vcpu,
    /// Memory of the guest at the exit.
    pub memory: &'a GuestMemory,
    /// Number of exits so far, this one included.
    pub exits: &'a ExitCounts,
}

/// Interrupt that a vCPU is about to get, for an observer. Only interrupt controllers in this process
/// ([`IrqchipPlace::Userspace`](crate::spec::IrqchipPlace::Userspace)) show it.
#[derive(Debug)]
pub struct InterruptView<'a> {
    /// Vector of the interrupt.
    pub vector: u8,
    /// Origin of the interrupt; `None` if the controllers do not tell.
    pub source: Option<InterruptSource>,
    /// vCPU that gets the interrupt, with the registers before the delivery.
    pub vcpu: &'a Vcpu,
    /// Memory of the guest before the delivery.
    pub memory: &'a GuestMemory,
}

/// Observer of a run, called on the threads of the vCPUs, for one exit at a time. Each method does nothing by default.
pub trait Observer: Send {
    /// Receives an exit before it is served. `Some` ends the run instead.
    fn on_exit(&mut self, view: &ExitView<'_>) -> Option<End> {
        let _ = view;
        None
    }

    /// Receives an exit after it was served. `answer` holds the bytes that the guest reads: none unless the exit is a read.
    fn on_served(&mut self, view: &ExitView<'_>, answer: &[u8]) {
        let _ = (view, answer);
    }

    /// Receives an interrupt before it is delivered. `Some` ends the run instead, with the interrupt pending.
    fn on_interrupt(&mut self, view: &InterruptView<'_>) -> Option<End> {
        let _ = view;
        None
    }
}
