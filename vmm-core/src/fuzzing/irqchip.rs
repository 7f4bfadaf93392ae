//! Interrupt controllers of a PC: random accesses, lines and times.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use super::input::FuzzInput;
use crate::devices::device::{from_bytes, to_bytes};
use crate::devices::irqchip::Irqchip;

/// Number of vCPUs.
const VCPUS: u32 = 2;
/// Maximum number of operations.
const MAX_OPERATIONS: usize = 500;
/// Ports of PICs and timer.
const PORTS: [u16; 11] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61];

/// Checks the interrupt controllers with accesses of two vCPUs. The first byte decides if they begin with a saved state of the
/// fuzzer's.
pub fn irqchip(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let kind = input.u8();
    let mut irqchip = Irqchip::new(VCPUS, kind & 1 == 0);
    if kind & 2 != 0 {
        let length = usize::from(input.u16());
        irqchip = from_bytes(input.bytes(length)).unwrap_or(irqchip);
    }
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        let operation = input.u8();
        let vcpu = usize::from(operation >> 7);
        let port = || PORTS.get(usize::from(operation >> 3 & 0xf)).copied().unwrap_or(0x20);
        match operation & 7 {
            0 => irqchip.write_port(port(), input.u8()),
            1 => _ = irqchip.read_port(port()),
            2 => irqchip.write_apic(vcpu, input.u16() & 0xff0, input.u32()),
            3 => _ = irqchip.read_apic(vcpu, input.u16() & 0xff0),
            4 => irqchip.write_ioapic((operation >> 3 & 1).into(), input.u32()),
            5 => irqchip.set_line(u32::from(input.u8() & 31), operation & 8 != 0),
            6 => advance(&mut irqchip, input.u32()),
            _ => acknowledge(&mut irqchip, vcpu),
        }
    }
    let saved = to_bytes(&irqchip).unwrap();
    assert!(from_bytes::<Irqchip>(&saved).unwrap() == irqchip, "the saved state is another one");
}

/// Moves the time on: it never goes back, and what is due next is still to come.
fn advance(irqchip: &mut Irqchip, nanoseconds: u32) {
    let before = irqchip.now();
    let now = before.saturating_add(u64::from(nanoseconds) << 8);
    irqchip.advance(now);
    assert_eq!(irqchip.now(), now.max(before));
    if let Some(next) = irqchip.next_event() {
        assert!(next > irqchip.now() || irqchip.now() == u64::MAX, "{next} is not after {now}");
    }
}

/// Takes an interrupt: there is one if and only if one was pending.
fn acknowledge(irqchip: &mut Irqchip, vcpu: usize) {
    let is_pending = irqchip.pending(vcpu).is_some();
    assert_eq!(irqchip.acknowledge(vcpu).is_some(), is_pending);
}
