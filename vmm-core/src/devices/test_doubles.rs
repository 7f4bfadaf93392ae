//! Other ends of devices in tests and fuzz targets: an interrupt input and an output that can be looked at.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::devices::irq::IrqSink;

/// Interrupt input that counts edges. Clones have the same count.
#[derive(Debug, Clone, Default)]
pub(crate) struct EdgeCounter(Arc<AtomicUsize>);

impl EdgeCounter {
    /// Returns the number of edges so far.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl IrqSink for EdgeCounter {
    fn pulse(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn set(&self, _: bool) -> io::Result<()> {
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
