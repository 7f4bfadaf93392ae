//! Stop of all vCPU threads together: each checks one flag, and a kick makes it check.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_sys_wrap::Kick;

use crate::machine::error::Error;
use crate::machine::processor::Processor;

/// Stop flag and results of the vCPU threads, in the order in which they came.
pub(crate) struct StopBarrier<R> {
    kicks: Vec<Kick>,
    stop: AtomicBool,
    results: Mutex<Vec<R>>,
}

impl<R> StopBarrier<R> {
    /// Creates the barrier for these vCPUs.
    pub(crate) fn new<'a>(processors: impl Iterator<Item = &'a Processor>) -> Result<Self, Error> {
        let mut kicks = Vec::new();
        for processor in processors {
            kicks.push(processor.vcpu.kicker()?);
        }
        Ok(Self { kicks, stop: AtomicBool::new(false), results: Mutex::default() })
    }

    /// Returns true if all threads are to leave their loops: for good if there is a result, otherwise for a check.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Adds a result and stops all vCPUs.
    pub(crate) fn stop_with(&self, result: R) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        self.stop();
    }

    /// Stops all vCPUs.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        for kick in &self.kicks {
            kick.kick();
        }
    }

    /// Clears the stop flag. Only when all threads have stopped.
    pub(crate) fn rearm(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    /// Removes and returns the results. Only when all threads have stopped.
    pub(crate) fn take(&self) -> Vec<R> {
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
