//! The same accesses to the kernel's timer and to this one.
//!
//! The kernel's runs with the host's clock. Each sequence of accesses is one run of a guest, between two readings of that clock, and its
//! answers have to be those of this timer at some time between them. The kernel differs from the data sheet as follows, and the
//! accesses are chosen so that it does not matter, or the bits are not compared:
//!
//! - It counts in binary, also where BCD is programmed.
//! - A new count begins at once, instead of at the end of a period; so each is written with a control word.
//! - In modes 1 and 5 it counts from the write on, not only from a trigger; so a trigger follows. OUT of modes 1, 2, 4 and 5 is inverted
//!   or not what the data sheet says: it is compared in modes 0 and 3.
//! - A low GATE does not stop it.
//! - An odd count of mode 3 is counted like an even one.
//! - The null count bit of the status is always 0, and modes 6 and 7 are read as 2 and 3.
//! - A control word does not end a latch; so all latches are read.
//! - Counter 0 is not faster than its minimum period (200 us) in modes 2 and 3, and has no mode 5.
//! - Bits 2 and 3 of port 0x61 are 0, and bit 4 toggles by the host's clock.

use std::time::Instant;

use super::super::tick;
use super::*;
use crate::devices::irqchip::tests::kernel_chips::PortAccess::{In, Out};
use crate::devices::irqchip::tests::kernel_chips::{KernelChips, PortAccess};
use crate::devices::irqchip::tests::random::Random;

/// Pulses by which a count may differ: the kernel rounds, and loads without waiting for a pulse.
const TOLERANCE: u64 = 3;
/// Time between two readings of the clock, in pulses, after which answers say nothing (the host was busy).
const MAX_WINDOW: u64 = 60_000;

/// Both sides.
struct Pair {
    kernel: KernelChips,
    pit: Pit,
    clock: Instant,
    /// Time of the last control word, for each counter: before and after the run.
    programmed: [(u64, u64); 3],
    compared: u32,
}

impl Pair {
    fn new() -> Self {
        let (clock, programmed) = (Instant::now(), [(0, 0); 3]);
        Self { kernel: KernelChips::new(), pit: Pit::new(), clock, programmed, compared: 0 }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap()
    }

    /// Makes accesses of the kernel's timer, and returns the times before and after, and the answers.
    fn run(&mut self, accesses: &[PortAccess]) -> (u64, u64, Vec<u8>) {
        let before = self.now();
        let answers = self.kernel.access(accesses);
        (before, self.now(), answers)
    }

    /// Programs a counter on both sides.
    fn program(&mut self, counter: u8, accesses: &[PortAccess]) {
        let (before, after, _) = self.run(accesses);
        answers(&mut self.pit, accesses, before);
        self.programmed[usize::from(counter)] = (before, after);
    }

    /// Asserts that the kernel's answers are those of this timer at some time of the run.
    fn compare(&mut self, counter: u8, accesses: &[PortAccess], masks: &[u8]) {
        let (before, after, kernel) = self.run(accesses);
        let masked = |answers: &[u8]| {
            answers.iter().zip(masks).map(|(answer, mask)| answer & mask).collect::<Vec<_>>()
        };
        let kernel = masked(&kernel);
        let (programmed, uncertain) = self.programmed[usize::from(counter)];
        // The kernel's counter was loaded up to this much later.
        let first = tick(before.saturating_sub(uncertain - programmed))
            .saturating_sub(TOLERANCE)
            .max(tick(programmed));
        let last = tick(after) + TOLERANCE;
        if last - first > MAX_WINDOW {
            return;
        }
        let at_tick = |tick: u64| masked(&answers(&mut self.pit.clone(), accesses, at(tick)));
        let found = (first..=last).any(|tick| at_tick(tick) == kernel);
        let (earliest, latest) = (at_tick(first), at_tick(last));
        assert!(
            found,
            "{accesses:x?}: {kernel:x?}, but from {earliest:x?} at {first} to {latest:x?} at {last}"
        );
        self.compared += 1;
        println!("{accesses:x?}: {kernel:x?}, one of {} times", last - first);
    }
}

/// Makes accesses of this timer at a time, and returns the answers.
fn answers(pit: &mut Pit, accesses: &[PortAccess], now: u64) -> Vec<u8> {
    let mut answers = Vec::new();
    for access in accesses {
        match *access {
            Out(port, value) => pit.write(port, value, now),
            In(port) => answers.push(pit.read(port, now)),
        }
    }
    answers
}

/// Programs counter 0 or 2, and compares what is read from it.
fn sequence(pair: &mut Pair, random: &mut Random) {
    let counter: u8 = random.of(&[0, 2, 2]);
    let port = 0x40 + u16::from(counter);
    let mode = if counter == 0 { random.of(&[0, 2, 3, 4]) } else { random.of(&[0, 1, 2, 3, 4, 5]) };
    // Low byte, high byte, both.
    let bytes = if counter == 0 { random.of(&[2, 3, 3]) } else { random.of(&[1, 2, 3, 3]) };
    let value = match bytes {
        1 => u16::from(random.byte()) & !1,
        2 => u16::from(random.byte() | 2) << 8,
        _ if random.below(4) == 0 => 0,
        _ => u16::try_from(1000 + random.below(64_000)).unwrap() & !1,
    };
    let [low, high] = value.to_le_bytes();
    let select = counter << 6;
    let mut accesses = vec![Out(0x61, 1), Out(0x43, select | bytes << 4 | mode << 1)];
    accesses.extend((bytes & 1 != 0).then_some(Out(port, low)));
    accesses.extend((bytes & 2 != 0).then_some(Out(port, high)));
    if counter == 2 && matches!(mode, 1 | 2 | 3 | 5) {
        accesses.extend([Out(0x61, 0), Out(0x61, 1)]);
    }
    println!("program {accesses:x?}");
    pair.program(counter, &accesses);
    let out = if matches!(mode, 0 | 3) { 0x80 } else { 0 };
    let count = if bytes == 3 { vec![In(port), In(port)] } else { vec![In(port)] };
    for _ in 0..random.below(6) {
        let mut accesses = Vec::new();
        let mut masks = Vec::new();
        match random.below(5) {
            0 => accesses.push(Out(0x43, select)),
            1 => {
                accesses.push(Out(0x43, 0xc0 | 2 << counter));
                masks.push(out | 0x3f);
                accesses.push(In(port));
            }
            2 => {
                // Latched twice: the first holds.
                accesses.extend([Out(0x43, 0xd0 | 2 << counter), Out(0x43, select)]);
            }
            3 if counter == 2 => {
                pair.compare(counter, &[In(0x61)], &[if out != 0 { 0x23 } else { 0x03 }]);
                continue;
            }
            // The count itself, in one access.
            3 if bytes != 3 => {}
            _ => {
                pair.compare(counter, &[Out(0x43, 0xe0 | 2 << counter), In(port)], &[out | 0x3f]);
                continue;
            }
        }
        accesses.extend(&count);
        masks.extend([0xff, 0xff]);
        pair.compare(counter, &accesses, &masks);
        if random.below(3) == 0 {
            std::thread::sleep(std::time::Duration::from_micros(random.below(30_000)));
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_kernels_timer_does_the_same() {
    let mut pair = Pair::new();
    for seed in 0..150 {
        println!("seed {seed}");
        sequence(&mut pair, &mut Random(seed));
    }
    println!("{} answers compared", pair.compared);
    assert!(pair.compared > 50, "only {} answers: the host is too busy", pair.compared);
}

/// The rising OUT of counter 0 is an interrupt request.
#[test]
#[ignore = "needs /dev/kvm"]
fn the_kernels_interrupt_does_not_come_before_this_one() {
    let requested = |pair: &Pair| {
        let master = &pair.kernel.state().chips[0];
        // irr of kvm_pic_state.
        master[9] & 1 != 0
    };
    for control in [0x30, 0x34, 0x36] {
        // A new VM, since a control word does not stop the kernel's timer.
        let mut pair = Pair::new();
        pair.kernel.access(&[Out(0x20, 0x11), Out(0x21, 0x20), Out(0x21, 4), Out(0x21, 1)]);
        assert!(!requested(&pair));
        pair.program(0, &[Out(0x43, control), Out(0x40, 0x20), Out(0x40, 0xff)]);
        let (programmed, _) = pair.programmed[0];
        let rises = |pit: &Pit, now: u64| pit.edges(programmed, now) != 0;
        while !requested(&pair) {
            assert!(pair.now() < programmed + 20_000_000_000, "no interrupt");
        }
        let late = pair.now() + TOLERANCE * 1000;
        assert!(rises(&pair.pit, late), "control {control:#x}: {} ns after the program", late - programmed);
    }
}
