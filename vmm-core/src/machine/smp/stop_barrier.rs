//! How the threads of all vCPUs come to a stop together: each looks at one flag, and a kick makes it look.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_sys_wrap::Kick;

use crate::machine::error::Error;
use crate::machine::processor::Processor;

/// What the threads share, and what they came to, in order.
pub(crate) struct StopBarrier<R> {
    kicks: Vec<Kick>,
    stop: AtomicBool,
    results: Mutex<Vec<R>>,
}

impl<R> StopBarrier<R> {
    /// For these vCPUs.
    pub(crate) fn new<'a>(processors: impl Iterator<Item = &'a Processor>) -> Result<Self, Error> {
        let mut kicks = Vec::new();
        for processor in processors {
            kicks.push(processor.vcpu.kicker()?);
        }
        Ok(Self { kicks, stop: AtomicBool::new(false), results: Mutex::default() })
    }

    /// Whether everybody is to leave the loop: for good if there is a result, else to be looked at.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Somebody came to a result; everybody stops.
    pub(crate) fn settle(&self, result: R) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        self.stop();
    }

    /// Stops everybody.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        for kick in &self.kicks {
            kick.kick();
        }
    }

    /// Once more. Only when all have stopped.
    pub(crate) fn begin_again(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    /// What they came to. Only when all have stopped.
    pub(crate) fn take(&self) -> Vec<R> {
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
