//! The same accesses to the kernel's PICs and to these, with the same answers and the same state after each.
//!
//! Before each step both have the same state. The kernel differs from the data sheet as follows; the test allows that, and gives
//! the kernel the state of the other side after it:
//!
//! - It keeps the slave's request of the master until it is acknowledged, while the INT output of a real slave can end. It does not
//!   look at the slave when the master is initialized, either.
//! - ICW1 leaves ISR (except for inputs with an edge), rotation in AEOI mode, and a poll command as they were. It makes the next
//!   report of a high level an edge, though the data sheet demands that the input rises.
//! - It requests and acknowledges during an initialization sequence, and before the first.
//! - It has no special mask mode; it only keeps the bit.
//! - In the special fully nested mode a slave in service does not block lower inputs of the master.
//! - A poll gives the input without bit 7, and ends it at once. One of the slave also ends the slave's service at the master.
//! - A changed ELCR leaves a request as it was.
//! - It expects ICW3 from a chip that is alone (SNGL). This is not part of the sequences.

use super::super::{CASCADE, InitState, Pic, bit};
use super::*;
use crate::devices::irqchip::tests::kernel_chips::{KernelChips, PortAccess};
use crate::devices::irqchip::tests::random::Random;

/// State of a PIC as the kernel keeps it: the members of `kvm_pic_state` before `elcr_mask`, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KernelPic {
    last_irr: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    priority_add: u8,
    irq_base: u8,
    read_reg_select: u8,
    poll: u8,
    special_mask: u8,
    init_state: u8,
    auto_eoi: u8,
    rotate_on_auto_eoi: u8,
    special_fully_nested_mode: u8,
    init4: u8,
    elcr: u8,
}

/// Offset of `kvm_pic_state` in `kvm_irqchip`.
const PIC_STATE: usize = 8;

impl KernelPic {
    fn from_bytes(chip: &[u8]) -> Self {
        let mut bytes = chip[PIC_STATE..].iter().copied();
        let mut next = || bytes.next().unwrap();
        Self {
            last_irr: next(),
            irr: next(),
            imr: next(),
            isr: next(),
            priority_add: next(),
            irq_base: next(),
            read_reg_select: next(),
            poll: next(),
            special_mask: next(),
            init_state: next(),
            auto_eoi: next(),
            rotate_on_auto_eoi: next(),
            special_fully_nested_mode: next(),
            init4: next(),
            elcr: next(),
        }
    }

    fn bytes(&self) -> [u8; 15] {
        [
            self.last_irr,
            self.irr,
            self.imr,
            self.isr,
            self.priority_add,
            self.irq_base,
            self.read_reg_select,
            self.poll,
            self.special_mask,
            self.init_state,
            self.auto_eoi,
            self.rotate_on_auto_eoi,
            self.special_fully_nested_mode,
            self.init4,
            self.elcr,
        ]
    }

    /// Returns the state that the kernel's chip has to have.
    fn of(pic: &Pic) -> Self {
        Self {
            last_irr: pic.inputs,
            irr: pic.irr(),
            imr: pic.imr,
            isr: pic.isr,
            priority_add: pic.first,
            irq_base: pic.vector_base.unwrap_or_default(),
            read_reg_select: pic.reads_isr.into(),
            poll: pic.poll.into(),
            special_mask: pic.special_mask.into(),
            init_state: match pic.init {
                InitState::PowerOn | InitState::Ready => 0,
                InitState::Icw2 => 1,
                InitState::Icw3 => 2,
                InitState::Icw4 => 3,
            },
            auto_eoi: pic.auto_eoi.into(),
            rotate_on_auto_eoi: pic.rotate_in_auto_eoi.into(),
            special_fully_nested_mode: pic.special_fully_nested.into(),
            init4: pic.needs_icw4.into(),
            elcr: pic.elcr,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Access(PortAccess),
    Input(u8, bool),
    Interrupt,
}

/// Number of a port's chip: 0 is the master.
fn chip_of(port: u16) -> Option<usize> {
    match port {
        0x20 | 0x21 => Some(0),
        0xa0 | 0xa1 => Some(1),
        _ => None,
    }
}

/// Both sides.
struct Pair {
    kernel: KernelChips,
    pics: PicPair,
    /// Steps after which the states were the same in full.
    compared: u32,
    /// Interrupts of the CPU, with the same vector.
    interrupts: u32,
}

impl Pair {
    /// Returns the state of the kernel's chips, and the one that they have to have.
    fn states(&self) -> ([KernelPic; 2], [KernelPic; 2]) {
        let chips = self.kernel.state().chips;
        let kernel = [KernelPic::from_bytes(&chips[0]), KernelPic::from_bytes(&chips[1])];
        (kernel, [&self.pics.master, &self.pics.slave].map(KernelPic::of))
    }

    /// Gives the kernel's chips the state of the others.
    fn synchronize(&self) {
        let mut state = self.kernel.state();
        for (chip, pic) in state.chips.iter_mut().zip(self.states().1) {
            chip[PIC_STATE..PIC_STATE + 15].copy_from_slice(&pic.bytes());
        }
        // Twice: the master looks at the slave that was there before.
        self.kernel.set_state(&state);
        self.kernel.set_state(&state);
    }

    /// Returns true if the kernel's chips request in this state what they have to.
    fn requests_are_comparable(&self) -> bool {
        let PicPair { master, slave } = &self.pics;
        let chips = [master, slave];
        let initialized = chips.iter().all(|pic| pic.init == InitState::Ready);
        let unmasked = chips.iter().all(|pic| !pic.special_mask || pic.isr & pic.imr == 0);
        let slave_in_service = master.special_fully_nested && master.isr & bit(CASCADE) != 0;
        initialized && unmasked && (!slave_in_service || master.pending().is_some())
    }

    /// Makes a step on both sides, and compares.
    fn make(&mut self, step: Step) {
        let before = self.pics.clone();
        let comparable = self.requests_are_comparable();
        let (kernel, answer) = match step {
            Step::Input(irq, level) => {
                self.kernel.vm.set_irq_line(irq.into(), level).unwrap();
                self.pics.set_input(irq, level);
                (None, None)
            }
            Step::Interrupt if !comparable => return,
            Step::Interrupt => {
                let requested = self.pics.intr();
                self.interrupts += u32::from(requested);
                (self.kernel.take_interrupt(), requested.then(|| self.pics.acknowledge()))
            }
            Step::Access(PortAccess::Out(port, value)) => {
                self.kernel.access(&[PortAccess::Out(port, value)]);
                self.pics.write(port, value);
                (None, None)
            }
            Step::Access(PortAccess::In(port)) => {
                let kernel = self.kernel.access(&[PortAccess::In(port)])[0];
                (Some(kernel), Some(self.pics.read(port)))
            }
        };
        let before = [before.master, before.slave];
        let polled = match step {
            Step::Access(PortAccess::In(port)) => chip_of(port).filter(|chip| before[*chip].poll),
            Step::Access(PortAccess::Out(..)) | Step::Input(..) | Step::Interrupt => None,
        };
        if polled.is_some() {
            if comparable {
                let answer = answer.unwrap();
                assert_eq!(kernel.map(|kernel| kernel & 7), Some(answer & 7));
                assert_eq!(answer & 0x80 == 0, answer == 7);
            }
        } else if matches!(step, Step::Access(PortAccess::In(0x20))) && !before[0].reads_isr {
            let mask = if comparable { 0xff } else { !bit(CASCADE) };
            assert_eq!(kernel.map(|kernel| kernel & mask), answer.map(|answer| answer & mask));
        } else {
            assert_eq!(kernel, answer);
        }
        self.compare_states(step, polled, &before, comparable);
    }

    /// Compares the states after a step, except for what the kernel does in its own way. `comparable` says whether requests were
    /// comparable before it.
    fn compare_states(&mut self, step: Step, polled: Option<usize>, before: &[Pic; 2], comparable: bool) {
        let (kernel, expected) = self.states();
        let mut rest = kernel;
        let cascade = bit(CASCADE);
        let comparable = comparable && self.requests_are_comparable() && !is_init_or_elcr(step);
        if !comparable || self.pics.slave.pending().is_none() {
            rest[0].irr = rest[0].irr & !cascade | expected[0].irr & cascade;
        }
        if let Step::Access(PortAccess::Out(port, value)) = step {
            match (chip_of(port), port & 1) {
                (Some(chip), 0) if value & 0x10 != 0 => {
                    let (pic, expected) = (&mut rest[chip], &expected[chip]);
                    (pic.isr, pic.poll) = (expected.isr, expected.poll);
                    (pic.rotate_on_auto_eoi, pic.last_irr) = (expected.rotate_on_auto_eoi, expected.last_irr);
                }
                // Non-specific EOI in the special mask mode.
                (Some(chip), 0)
                    if value & 0x78 == 0x20
                        && before[chip].special_mask
                        && before[chip].isr & before[chip].imr != 0 =>
                {
                    rest[chip].isr = expected[chip].isr;
                    rest[chip].priority_add = expected[chip].priority_add;
                }
                (None, _) => {
                    let chip = usize::from(port & 1);
                    let changed = before[chip].elcr ^ expected[chip].elcr;
                    rest[chip].irr = rest[chip].irr & !changed | expected[chip].irr & changed;
                }
                _ => {}
            }
        }
        if let Some(chip) = polled {
            let (pic, expected) = (&mut rest[chip], &expected[chip]);
            (pic.isr, pic.irr, pic.priority_add) = (expected.isr, expected.irr, expected.priority_add);
        }
        if polled == Some(1) {
            rest[0].isr = rest[0].isr & !cascade | expected[0].isr & cascade;
            rest[0].irr = rest[0].irr & !cascade | expected[0].irr & cascade;
        }
        assert_eq!(rest, expected, "master and slave: the kernel's, and what they have to be");
        if kernel == expected {
            self.compared += 1;
        } else {
            self.synchronize();
            let (kernel, mut expected) = self.states();
            if !self.requests_are_comparable() {
                expected[0].irr = expected[0].irr & !cascade | kernel[0].irr & cascade;
            }
            assert_eq!(kernel, expected, "after the kernel's state was set");
        }
    }
}

/// Returns true for steps after which the kernel does not look at the slave.
fn is_init_or_elcr(step: Step) -> bool {
    match step {
        Step::Access(PortAccess::Out(0x20 | 0xa0, value)) => value & 0x10 != 0,
        Step::Access(PortAccess::Out(port, _)) => chip_of(port).is_none(),
        Step::Access(PortAccess::In(_)) | Step::Input(..) | Step::Interrupt => false,
    }
}

/// Returns a random write to a command port; not SNGL of ICW1.
fn command(random: &mut Random) -> u8 {
    match random.below(10) {
        0 => random.of(&[0x10, 0x11, 0x19]),
        1..=4 => random.of(&[0x20, 0x20, 0x60, 0xa0, 0xe0, 0xc0, 0x80, 0x00, 0x40]) | random.byte() & 7,
        5 => random.of(&[0x0a, 0x0b]),
        6 => random.of(&[0x0c, 0x0e, 0x0f]),
        7 => random.of(&[0x68, 0x48, 0x28]),
        _ => random.byte() & !0x10,
    }
}

fn step(random: &mut Random) -> Step {
    const PORTS: [u16; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
    match random.below(10) {
        0..=2 => {
            let irq = random.of(&[0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
            Step::Input(irq, random.below(2) == 1)
        }
        3 | 4 => Step::Interrupt,
        5 => Step::Access(PortAccess::In(random.of(&PORTS))),
        6 | 7 => Step::Access(PortAccess::Out(random.of(&[0x20, 0xa0]), command(random))),
        8 => Step::Access(PortAccess::Out(random.of(&[0x21, 0xa1]), random.byte() & random.byte())),
        _ => Step::Access(PortAccess::Out(random.of(&[0x4d0, 0x4d1]), random.byte())),
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_kernels_chips_do_the_same() {
    let mut pair = Pair { kernel: KernelChips::new(), pics: PicPair::new(), compared: 0, interrupts: 0 };
    let mut made = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        let icw4 = |random: &mut Random| random.of(&[0x01, 0x01, 0x03, 0x11, 0x13]);
        let icw4 = (icw4(&mut random), icw4(&mut random));
        let start = init(icw4.0, icw4.1).map(|(port, value)| Step::Access(PortAccess::Out(port, value)));
        let steps: Vec<_> = start.into_iter().chain((0..100).map(|_| step(&mut random))).collect();
        for (number, step) in steps.iter().enumerate() {
            println!("seed {seed}, step {number}: {step:x?}");
            pair.make(*step);
            made += 1;
        }
    }
    println!("{made} steps, {} compared in full, {} interrupts", pair.compared, pair.interrupts);
    assert!(pair.compared > made / 2 && pair.interrupts > made / 40);
}
