//! VMs of further machines that are built during or after a run: copies that the autopsy and the debugger replay, and the new
//! machine that a wake from suspend reads the reset state of.
//!
//! A program can give up the right to create VMs and to open files before its guest runs. [`Machine::reserve_replays`] then comes
//! first: it creates the VMs that are needed, and reads the host's properties that are read from files when they are needed.
//! Without interrupt controllers in the kernel no VM is needed for an autopsy: the first copy takes the VM of the machine that has ended
//! ([`Machine::release`]).

use kvm_sys_wrap::VmReservation;

use crate::machine::Machine;
use crate::machine::error::Error;
use crate::machine::host;
use crate::spec::{Interrupts, MachineSpec};

/// Number of copies that a debugger holds at a time: the one that it shows, and the one that it searches with.
const DEBUGGER_COPIES: usize = 2;

/// Purpose of the copies of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayPurpose {
    /// No copies are built.
    None,
    /// Analysis of the end of the run ([`crate::autopsy`]), one copy at a time.
    Autopsy,
    /// Probe of the host's debug features, for a stop at an address ([`crate::machine::debug_capabilities`]).
    StopPoint,
    /// Reverse execution ([`crate::debugger`]), and after it an autopsy.
    Debugger,
}

/// VMs that are reserved for the copies that this thread builds. They are closed when the value is dropped.
#[derive(Debug)]
#[must_use = "dropping it closes the VMs"]
pub struct ReservedVms(Vec<VmReservation>);

impl ReservedVms {
    /// Returns the number of reserved VMs.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Machine {
    /// Reserves the VMs that the run of this machine needs besides its own (`KVM_CREATE_VM`), and reads the properties of the host
    /// that the run and they need. The copies must be built on this thread, on the [`Kvm`](crate::Kvm) of this machine or a clone of it.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn reserve_replays(&self, purpose: ReplayPurpose) -> Result<ReservedVms, Error> {
        let spec = &self.board.spec;
        host::read_facts(spec);
        let kvm = self.processors.bsp().vcpu.vm().kvm();
        let vms = (0..reserved_vms(spec, purpose)).map(|_| kvm.reserve_vm());
        Ok(ReservedVms(vms.collect::<Result<_, _>>()?))
    }

    /// Reads the properties of the host that [`Machine::reset`] reads from files.
    pub fn prepare_reset(&self) {
        host::shadows_page_tables();
        kvm_sys_wrap::open_pagemap();
    }

    /// Gives the VM of this machine, which has ended, to the next machine that this thread builds, while the returned value exists
    /// ([`Vm::release`](kvm_sys_wrap::Vm::release)). Registers, memory and devices can be read as before; the machine cannot run
    /// or be reset. Does nothing for a machine with interrupt controllers in the kernel.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn release(&self) -> Result<ReservedVms, Error> {
        Ok(ReservedVms(self.processors.bsp().vcpu.vm().release()?.into_iter().collect()))
    }

    /// Returns true if the machine was released: it cannot run or be reset.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.processors.bsp().vcpu.vm().is_released()
    }
}

/// Number of VMs besides that of the machine.
const fn reserved_vms(spec: &MachineSpec, purpose: ReplayPurpose) -> usize {
    let can_suspend = spec.devices.platform.acpi;
    match (spec.kernel_irqchip(), purpose) {
        (Interrupts::None, ReplayPurpose::Debugger) => DEBUGGER_COPIES,
        (_, ReplayPurpose::StopPoint) => 1,
        // The VM of the ended machine is released.
        (Interrupts::None, ReplayPurpose::None | ReplayPurpose::Autopsy) => 0,
        // A run with interrupts is not debugged backwards, and not examined after that.
        (Interrupts::Split | Interrupts::Pc, ReplayPurpose::None | ReplayPurpose::Debugger) => {
            can_suspend as usize
        }
        // One for machines with controllers in the kernel, one after the other: waking up, the sample of a storm, replays. One for
        // the second run without them.
        (Interrupts::Split | Interrupts::Pc, ReplayPurpose::Autopsy) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;
    use crate::spec::mode::Mode;
    use crate::spec::{EntryPoint, IrqchipPlace};

    #[test]
    fn a_plain_run_reserves_nothing() {
        let mut spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
        let counts = |spec: &MachineSpec| {
            let purposes = [
                ReplayPurpose::None,
                ReplayPurpose::Autopsy,
                ReplayPurpose::Debugger,
                ReplayPurpose::StopPoint,
            ];
            purposes.map(|purpose| reserved_vms(spec, purpose))
        };
        assert_eq!(counts(&spec), [0, 0, 2, 1]);
        spec.interrupts = Interrupts::Pc;
        assert_eq!(counts(&spec), [0, 2, 0, 1]);
        spec.irqchip = IrqchipPlace::Userspace;
        assert_eq!(counts(&spec), [0, 0, 2, 1]);
        spec.irqchip = IrqchipPlace::Kernel;
        spec.devices.platform.acpi = true;
        assert_eq!(counts(&spec), [1, 2, 1, 1]);
    }
}
