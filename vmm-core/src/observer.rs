//! Those who watch a run: limits here, later traces, statistics, recorders and debuggers.
//!
//! The run loop shows every exit to each observer before it serves it. An observer may look at the vCPU, and may end the
//! run; it never serves an exit.

use kvm_sys_wrap::{Exit, Vcpu};

use crate::end::End;
use crate::exit_counts::ExitCounts;

/// What an observer sees.
#[derive(Debug)]
pub struct View<'a> {
    /// The exit.
    pub exit: &'a Exit,
    /// The vCPU, stopped.
    pub vcpu: &'a Vcpu,
    /// Exits so far, this one included.
    pub exits: &'a ExitCounts,
}

/// Watches a run.
pub trait Observer {
    /// An exit happened and is not served yet. An answer ends the run instead.
    fn on_exit(&mut self, view: &View<'_>) -> Option<End>;
}
