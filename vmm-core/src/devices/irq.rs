//! An interrupt line, as a device holds it.
//!
//! What is at the other end is the machine's business: the kernel's interrupt controllers, or nothing.

use std::fmt;
use std::io;
use std::sync::Arc;

use kvm_sys_wrap::{Irqfd, Vm};
use vm_superio::Trigger;

/// An interrupt line. Clones are the same line.
#[derive(Clone)]
pub struct IrqLine(Option<Arc<dyn IrqSink>>);

/// The machine's end of a line.
pub trait IrqSink: Send + Sync {
    /// Up and down again: an edge.
    ///
    /// # Errors
    /// The host's.
    fn pulse(&self) -> io::Result<()>;

    /// Up, or down.
    ///
    /// # Errors
    /// The host's.
    fn set(&self, level: bool) -> io::Result<()>;
}

impl IrqLine {
    /// A line that leads nowhere, on a machine without interrupt controllers.
    #[must_use]
    pub const fn disconnected() -> Self {
        Self(None)
    }

    /// A line to `wire`.
    #[must_use]
    pub fn to(wire: impl IrqSink + 'static) -> Self {
        Self(Some(Arc::new(wire)))
    }

    /// A line to an input of the kernel's interrupt controllers.
    ///
    /// # Errors
    /// [`kvm_sys_wrap::Error::Call`].
    pub(crate) fn to_input(vm: &Vm, gsi: u32) -> Result<Self, kvm_sys_wrap::Error> {
        Ok(Self::to(Input { edge: vm.register_irqfd(gsi)?, vm: vm.clone(), gsi }))
    }

    /// An edge: the line goes up and down again.
    ///
    /// # Errors
    /// The host's.
    pub fn pulse(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |wire| wire.pulse())
    }

    /// Sets the line's level.
    ///
    /// # Errors
    /// The host's.
    pub fn set(&self, level: bool) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |wire| wire.set(level))
    }

    /// Whether somebody is at the other end.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_connected() { "Line" } else { "Line (disconnected)" })
    }
}

impl Trigger for IrqLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.pulse()
    }
}

/// An input of the kernel's controllers.
struct Input {
    edge: Irqfd,
    vm: Vm,
    gsi: u32,
}

impl IrqSink for Input {
    fn pulse(&self) -> io::Result<()> {
        self.edge.trigger()
    }

    fn set(&self, level: bool) -> io::Result<()> {
        self.vm.set_irq_line(self.gsi, level).map_err(io::Error::other)
    }
}
