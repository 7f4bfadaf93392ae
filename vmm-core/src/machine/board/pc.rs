//! State that a PC's BIOS leaves in the interrupt controllers, for guests that count on it.

use kvm_sys_wrap::Vm;

use crate::devices::irqchip::SharedIrqchip;
use crate::machine::error::Error;
use crate::spec::{Interrupts, MachineSpec};

/// First vectors of the two PICs as a BIOS sets them.
const PIC_VECTORS: (u8, u8) = (0x08, 0x70);

/// Command port of the 8254.
const PIT_COMMAND: u16 = 0x43;
/// Command for channel 0: two bytes of the count follow, mode 3, binary.
const PIT_SQUARE_WAVE: u8 = 0x36;

/// Returns true if the PICs need their BIOS state: kvm-unit-tests, which the test device stands for, do not set them up.
pub(crate) fn needs_bios_pics(spec: &MachineSpec) -> bool {
    spec.interrupts == Interrupts::Pc && spec.devices.platform.kvm_testdev
}

/// Sets the PICs up as a BIOS does.
pub(super) fn init_pics(vm: &Vm, irqchip: Option<&SharedIrqchip>) -> Result<(), Error> {
    let (master, slave) = PIC_VECTORS;
    if let Some(irqchip) = irqchip {
        let mut irqchip = irqchip.lock();
        irqchip.init_pics(master, slave);
        // The timer's input is unmasked, and nothing handles its interrupt: it waits for a count, as that of the kernel does.
        irqchip.write_port(PIT_COMMAND, PIT_SQUARE_WAVE);
        return Ok(());
    }
    Ok(vm.init_pics(master, slave)?)
}
