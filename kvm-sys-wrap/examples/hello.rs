//! Hello world from 24 bytes of real-mode code: one page of memory, one vCPU, one port.
#![expect(clippy::wildcard_enum_match_arm, reason = "all other exits are the same mistake")]

use kvm_sys_wrap::vm_memory::{Bytes, GuestAddress};
use kvm_sys_wrap::{Exit, Gpa, Kvm, Port, Slot, TssAddress};

const PORT: Port = Port(0xe9);

#[rustfmt::skip]
const CODE: &[u8] = &[
    0xbe, 0x0c, 0x10,       // mov si, message
    0xba, 0xe9, 0x00,       // mov dx, PORT
    0xb9, 0x0c, 0x00,       // mov cx, 12
    0xf3, 0x6e,             // rep outsb
    0xf4,                   // hlt
    b'H', b'e', b'l', b'l', b'o', b' ', b'w', b'o', b'r', b'l', b'd', b'\n',
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Steps 1 to 3: the subsystem, a VM, and the pages that Intel hosts need for real mode.
    let kvm = Kvm::open()?;
    let vm = kvm.create_vm()?;
    vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000))?)?;

    // Step 4: one page of memory with the code.
    vm.add_slot(Slot::new(0, Gpa(0x1000), 0x1000))?;
    vm.memory().write_slice(CODE, GuestAddress(0x1000))?;

    // Steps 5 to 8: a vCPU in real mode, at 0:1000.
    let mut vcpu = vm.create_vcpu(0)?;
    let mut sregs = vcpu.sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    (regs.rip, regs.rflags) = (0x1000, 2);
    vcpu.set_regs(&regs)?;

    // Step 9: run until HLT.
    loop {
        match vcpu.run()? {
            Exit::PioOut { port: PORT, data, .. } => print!("{}", String::from_utf8_lossy(&data)),
            Exit::Hlt => return Ok(()),
            Exit::Interrupted | Exit::Retry => {}
            exit => return Err(format!("the guest did something else: {exit:?}").into()),
        }
    }
}
