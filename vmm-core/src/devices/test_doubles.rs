//! Other ends of devices in tests and fuzz targets: an interrupt input and an output that can be looked at.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::devices::irq::IrqSink;

/// Interrupt input that counts rising edges. Clones are the same input.
#[derive(Debug, Clone, Default)]
pub(crate) struct EdgeCounter(Arc<(AtomicUsize, AtomicBool)>);

impl EdgeCounter {
    /// Returns the number of edges so far.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Returns true if the line is high.
    #[cfg(test)]
    pub(crate) fn level(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }
}

impl IrqSink for EdgeCounter {
    fn pulse(&self) -> io::Result<()> {
        self.set(true)?;
        self.set(false)
    }

    fn set(&self, level: bool) -> io::Result<()> {
        let (count, before) = &*self.0;
        if !before.swap(level, Ordering::Relaxed) && level {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Output that keeps what is written to it. Clones are the same output.
#[derive(Debug, Clone, Default)]
pub(crate) struct CapturedOutput(Arc<Mutex<Vec<u8>>>);

impl CapturedOutput {
    /// Returns all bytes so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for CapturedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
