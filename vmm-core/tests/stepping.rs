//! Single steps on KVM, in every mode and ring: each instruction is reported once, decoded with the width of the CPU.
//!
//! A test that cannot run on a host prints `skipped: REASON`.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::time::Duration;

use kvm_sys_wrap::Exit;
use vmm_core::cpu::cpu_state::OperandWidth;
use vmm_core::cpu::exit_counts::ExitKind;
use vmm_core::devices::console::Console;
use vmm_core::disassembly::next_instruction;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::observer::{ExitView, Observer};
use vmm_core::machine::run_loop::RunOutcome;
use vmm_core::machine::stepper::can_step;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{EntryPoint, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

const CODE: u64 = 0x8000;

/// Code that is valid in all widths: `mov $0x11, %al; out %al, $0x80; in $0x80, %al; nop; xor %al, %al; out %al, $0xf4`. The last one
/// ends the run, in ring 3 too.
const CODE_OF_ALL_WIDTHS: &[u8] = &[0xb0, 0x11, 0xe6, 0x80, 0xe4, 0x80, 0x90, 0x30, 0xc0, 0xe6, 0xf4];
const CODE_OF_ALL_WIDTHS_TEXT: [&str; 5] = ["mov al,0x11", "out 0x80,al", "in al,0x80", "nop", "xor al,al"];

/// Observer that records the executed instructions.
#[derive(Default)]
struct Executed {
    next: Option<(String, OperandWidth)>,
    list: Vec<(String, OperandWidth)>,
}

impl Executed {
    fn decode_next(&mut self, vcpu: &kvm_sys_wrap::Vcpu, memory: &kvm_sys_wrap::GuestMemory) {
        let (regs, sregs) = (vcpu.regs().unwrap(), vcpu.sregs().unwrap());
        self.next = next_instruction(vcpu, memory, &regs, &sregs).map(|next| (next.text, next.width));
    }
}

impl Observer for Executed {
    fn on_exit(&mut self, view: &ExitView<'_>) -> Option<End> {
        if matches!(view.exit, Exit::Debug { .. }) {
            self.list.extend(self.next.take());
            self.decode_next(view.vcpu, view.memory);
        }
        None
    }
}

fn spec(mode: Mode, ring: Ring) -> MachineSpec {
    let mut spec = MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)));
    spec.boot.ring = ring;
    spec.limits.time = Some(Duration::from_secs(120));
    spec
}

/// Single-steps `code`. Returns `None` if this host does not support the mode, or stepping in it.
fn executed(spec: MachineSpec, code: &[u8]) -> Option<(Vec<(String, OperandWidth)>, RunOutcome)> {
    let name = format!("{} in ring {}", spec.boot.mode, spec.boot.ring.level());
    let guest = FlatImage { address: Gpa(CODE), bytes: code };
    let mut machine =
        match Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(std::io::sink())) {
            Ok(machine) => machine,
            Err(error) => {
                assert_eq!(error.blame(), Blame::HostLacks, "{name}: {error}");
                println!("{name}: {error}");
                return None;
            }
        };
    let steppable = can_step(&machine.vcpu().sregs().unwrap());
    let mut executed = Executed::default();
    executed.decode_next(machine.vcpu(), machine.memory());
    let outcome: Result<RunOutcome, Error> = machine.runner().observe(&mut [&mut executed]).step(true).run();
    let outcome = outcome.unwrap();
    if !steppable {
        // The guest runs without steps.
        assert_eq!((outcome.end, executed.list.as_slice()), (End::Exit { code: 0 }, &[][..]), "{name}");
        println!("{name}: this host cannot step it");
        return None;
    }
    Some((executed.list, outcome))
}

#[test]
#[ignore = "needs /dev/kvm"]
fn every_instruction_is_one_step_in_every_mode_and_ring() {
    for mode in Mode::ALL {
        for ring in [Ring::Kernel, Ring::User] {
            if !mode.is_protected() && ring == Ring::User {
                continue;
            }
            let mut spec = spec(mode, ring);
            // Codes listed as success give 0.
            spec.devices.debug_exit.as_mut().unwrap().success = vec![0];
            let Some((list, outcome)) = executed(spec, CODE_OF_ALL_WIDTHS) else { continue };
            let width = match mode.bits() {
                16 => OperandWidth::Bits16,
                32 => OperandWidth::Bits32,
                _ => OperandWidth::Bits64,
            };
            let expected = CODE_OF_ALL_WIDTHS_TEXT.map(|text| (text.to_owned(), width));
            assert_eq!(list, expected, "{mode} in ring {}", ring.level());
            assert_eq!(outcome.end, End::Exit { code: 0 }, "{mode} in ring {}", ring.level());
            // The two accesses and the end. Steps are not exits of the guest.
            assert_eq!(outcome.exits.total(), 3, "{mode} in ring {}", ring.level());
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_stepped_hlt_ends_the_run() {
    let (list, outcome) = executed(spec(Mode::Long, Ring::Kernel), &[0x90, 0xfa, 0xf4]).unwrap();
    assert_eq!(outcome.end, End::Halt { interrupts: false });
    assert_eq!((outcome.exits.get(ExitKind::Hlt), outcome.exits.total()), (1, 1));
    let texts: Vec<&str> = list.iter().map(|(text, _)| text.as_str()).collect();
    assert!(texts == ["nop", "cli"] || texts == ["nop", "cli", "hlt"], "{texts:?}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_decoder_follows_a_switch_to_protected_mode() {
    #[rustfmt::skip]
    let code = [
        0x0f, 0x01, 0x16, 0x20, 0x80,       // 8000: lgdt (0x8020)
        0x0f, 0x20, 0xc0,                   // 8005: mov %cr0, %eax
        0x0c, 0x01,                         // 8008: or $1, %al
        0x0f, 0x22, 0xc0,                   // 800a: mov %eax, %cr0
        0xea, 0x12, 0x80, 0x08, 0x00,       // 800d: ljmp $8, $0x8012
        0xb8, 0x2a, 0, 0, 0,                // 8012: in 32 bits: mov $42, %eax
        0xf4,                               // 8017: hlt
        0, 0, 0, 0, 0, 0, 0, 0,
        0x0f, 0, 0x28, 0x80, 0, 0, 0, 0,    // 8020: the GDT has 16 bytes at 0x8028
        0, 0, 0, 0, 0, 0, 0, 0,             // 8028: the null descriptor
        0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0, // 8030: 32-bit code from 0 to 4 GiB
    ];
    let (list, outcome) = executed(spec(Mode::Real, Ring::Kernel), &code).unwrap();
    assert_eq!(outcome.end, End::Halt { interrupts: false });
    let [.., jump, mov] = list.get(..6).unwrap() else { panic!("{list:?}") };
    assert_eq!(*jump, ("jmp 0x8:0x8012".to_owned(), OperandWidth::Bits16));
    assert_eq!(*mov, ("mov eax,0x2a".to_owned(), OperandWidth::Bits32));
}
