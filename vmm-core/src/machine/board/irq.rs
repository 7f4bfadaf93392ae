//! Inputs of the kernel's interrupt controllers, for the lines of devices (`KVM_IRQFD`, `KVM_IRQ_LINE`).

use std::io;

use kvm_sys_wrap::{Irqfd, Vm};

use crate::devices::irq::{IrqLine, IrqSink};

/// Returns a line to an input (a GSI) of the kernel's interrupt controllers.
pub(super) fn line(vm: &Vm, gsi: u32) -> Result<IrqLine, kvm_sys_wrap::Error> {
    Ok(IrqLine::new(KernelInput { edge: vm.register_irqfd(gsi)?, vm: vm.clone(), gsi }))
}

/// Input of the kernel's interrupt controllers.
struct KernelInput {
    edge: Irqfd,
    vm: Vm,
    gsi: u32,
}

impl IrqSink for KernelInput {
    fn pulse(&self) -> io::Result<()> {
        self.edge.trigger()
    }

    fn set(&self, level: bool) -> io::Result<()> {
        self.vm.set_irq_line(self.gsi, level).map_err(io::Error::other)
    }
}
