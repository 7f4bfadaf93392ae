//! Replay, checkpoints and autopsies on KVM.
//!
//! A test that cannot run on a host prints `skipped: REASON`.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::io;
use std::time::Duration;

use vm_memory::Bytes;
use vmm_core::autopsy::{Autopsy, AutopsyNote, Cause, StateSource, examine};
use vmm_core::devices::console::{Console, Input, Output};
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::Error;
use vmm_core::machine::image::FlatImage;
use vmm_core::record::Recording;
use vmm_core::record::replay::{Replayed, Replayer};
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

const CODE: u64 = 0x8000;
const MEMORY: u64 = 2 << 20;
const BUDGET: Duration = Duration::from_secs(600);

/// Console input in which each byte differs from the previous one.
struct Counting(u8);

impl Input for Counting {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(first) = buffer.first_mut() else { return Ok(0) };
        self.0 = self.0.wrapping_add(7);
        *first = self.0;
        Ok(1)
    }

    fn has_ended(&self) -> bool {
        false
    }
}

/// Builds a machine for `code` in `mode`. The console input starts after `input`.
fn build(mode: Mode, code: &[u8], input: u8) -> Result<Machine, Error> {
    let mut spec = MachineSpec::new(mode, MEMORY, EntryPoint::Address(Gva(CODE)));
    spec.limits.time = Some(Duration::from_secs(120));
    let guest = FlatImage { address: Gpa(CODE), bytes: code };
    let console =
        Console { output: Output::new(io::sink()), input: Box::new(Counting(input)), input_fd: None };
    Machine::build(&Kvm::open().unwrap(), spec, &guest, console)
}

/// Runs a guest and records its exits.
fn run(mode: Mode, code: &[u8]) -> (Machine, End, Recording) {
    let mut machine = build(mode, code, 0).unwrap();
    let mut recording = Recording::new();
    let end = machine.runner().observe(&mut [&mut recording]).run().unwrap().end;
    (machine, end, recording)
}

fn autopsy(mode: Mode, code: &[u8]) -> Autopsy {
    let (machine, end, recording) = run(mode, code);
    examine(&machine, &end, &recording, &|_| build(mode, code, 0), BUDGET)
}

fn summary(autopsy: &Autopsy) -> String {
    autopsy.summary(&|_| None)
}

fn contents(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(MEMORY).unwrap()];
    machine.memory().read_slice(&mut bytes, Gpa(0).into()).unwrap();
    bytes
}

/// Reads 100 bytes from the serial port and stores them, then halts.
const READER: &[u8] = &[
    0xbf, 0x00, 0x00, 0x01, 0x00, // mov edi,0x10000
    0xbb, 100, 0, 0, 0, // mov ebx,100
    0x66, 0xba, 0xfd, 0x03, // again: mov dx,0x3fd
    0xec, // in al,dx
    0x66, 0xba, 0xf8, 0x03, // mov dx,0x3f8
    0xec, // in al,dx
    0xaa, // stosb
    0xff, 0xcb, // dec ebx
    0x75, 0xf1, // jnz again
    0xf4, // hlt
];

#[test]
#[ignore = "needs /dev/kvm"]
fn a_replay_answers_reads_from_the_recording() {
    let (machine, end, recording) = run(Mode::Long, READER);
    assert_eq!((end, recording.exits()), (End::Halt { interrupts: false }, 201));
    let other_input = || build(Mode::Long, READER, 99);
    let mut replayer = Replayer::new(other_input, &recording).unwrap();
    assert_eq!(replayer.replay_to(200).unwrap(), Replayed::Served);
    assert_eq!(replayer.replay_to(201).unwrap(), Replayed::Ended(End::Halt { interrupts: false }));
    let memory = contents(&machine);
    assert!(memory[0x1_0000..0x1_0064].windows(2).all(|pair| pair[0] != pair[1]));
    assert!(memory == contents(replayer.machine()));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_replay_from_a_mark_is_the_same_as_the_first_one() {
    let (machine, _, recording) = run(Mode::Long, READER);
    let mut replayer = Replayer::new(|| build(Mode::Long, READER, 3), &recording).unwrap();
    // After a read whose result is not in its register yet.
    assert_eq!(replayer.replay_to(117).unwrap(), Replayed::Served);
    let mark = replayer.mark().unwrap();
    let regs = replayer.machine().vcpu().regs().unwrap();
    for _ in 0..2 {
        assert!(matches!(replayer.replay_to(u64::MAX).unwrap(), Replayed::Ended(End::Halt { .. })));
        assert!(contents(&machine) == contents(replayer.machine()));
        replayer = replayer.return_to(&mark).unwrap();
        assert_eq!(replayer.exits(), 117);
        assert_eq!(replayer.machine().vcpu().regs().unwrap(), regs);
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn device_writes_to_memory_survive_a_return_to_a_mark() {
    // The arguments' buffer length is set before the mark, the call follows it: LENGTH at 0x514, EXIT_STATS at 0x518.
    let code = [
        0xb8, 200, 0, 0, 0, // mov eax,200
        0x66, 0xba, 0x14, 0x05, // mov dx,0x514
        0xef, // out dx,eax
        0xb8, 0, 0, 1, 0, // mov eax,0x10000
        0x66, 0xba, 0x18, 0x05, // mov dx,0x518
        0xef, // out dx,eax
        0xf4, // hlt
    ];
    let (machine, _, recording) = run(Mode::Protected, &code);
    assert_eq!(&contents(&machine)[0x1_0000..0x1_0009], b"pio-out 2");
    let mut replayer = Replayer::new(|| build(Mode::Protected, &code, 0), &recording).unwrap();
    assert_eq!(replayer.replay_to(1).unwrap(), Replayed::Served);
    let mark = replayer.mark().unwrap();
    let mut replayer = replayer.return_to(&mark).unwrap();
    assert!(matches!(replayer.replay_to(u64::MAX).unwrap(), Replayed::Ended(End::Halt { .. })));
    assert!(contents(&machine) == contents(replayer.machine()));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_reads_the_clock_diverges() {
    // rdtsc; out 0xe9,eax; three times more; ud2
    let mut code = [0x0f, 0x31, 0xe7, 0xe9].repeat(4);
    code.extend([0x0f, 0x0b]);
    let found = autopsy(Mode::Long, &code);
    assert!(found.notes.iter().any(|note| matches!(note, AutopsyNote::Diverged(_))), "{:?}", found.notes);
    // A host that keeps the registers still shows the instruction.
    match found.source {
        StateSource::FinalRegisters if found.registers.is_some() => {
            assert!(summary(&found).contains("`ud2`"));
        }
        StateSource::FinalRegisters => assert!(summary(&found).contains("could not be established")),
        StateSource::Replay { .. } | StateSource::ExceptionFrame | _ => panic!("{:?}", found.source),
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_long_run_after_the_last_exit_is_bisected() {
    // out 0xe9,al; mov ecx,30000; again: dec ecx; jnz again; div cl
    let code = [0xe6, 0xe9, 0xb9, 0x30, 0x75, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc, 0xf6, 0xf1];
    let found = autopsy(Mode::Protected, &code);
    assert!(matches!(found.cause, Cause::Exception), "{found:?}");
    assert!(summary(&found).starts_with("`div cl` at 0x800b raised #DE"), "{}", summary(&found));
    assert_eq!(found.previous_instructions.len(), 32, "the instructions before the end are traced too");
    let StateSource::Replay { steps, .. } = found.source else { panic!("{:?}", found.source) };
    assert!(steps < 20_000, "{steps}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn handled_exceptions_are_traced() {
    // Real mode: the vector of #UD leads to a handler that divides by zero; the vector of #DE leads nowhere, and there is
    // no limit that would stop it: it leads to a second handler with HLT.
    let code = [
        0x31, 0xc0, // xor ax,ax
        0x8e, 0xd8, // mov ds,ax
        0xc7, 0x06, 0x18, 0x00, 0x18, 0x80, // mov word [0x18],0x8018
        0xc7, 0x06, 0x00, 0x00, 0x1c, 0x80, // mov word [0],0x801c
        0x0f, 0x0b, // ud2
        0x90, 0x90, 0x90, 0x90, 0x90, 0x90, //
        0x90, // 0x8018: nop
        0xf6, 0xf0, // div al
        0x90, //
        0xf4, // 0x801c: hlt
    ];
    let found = autopsy(Mode::Real, &code);
    let raised: Vec<u8> = found
        .previous_instructions
        .iter()
        .filter_map(|past| Some(past.raised.as_ref()?.fault.vector))
        .collect();
    assert_eq!((raised, found.active_exceptions.len()), (vec![6, 0], 2), "{found:?}");
    assert_eq!(found.instruction.as_ref().unwrap().linear, 0x801c);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_incomplete_recording_is_not_replayed() {
    let code = [0xe6, 0xe9, 0xe6, 0xe9, 0x0f, 0x0b];
    let mut machine = build(Mode::Long, &code, 0).unwrap();
    let mut recording = Recording::with_limit(10);
    let end = machine.runner().observe(&mut [&mut recording]).run().unwrap().end;
    assert!(recording.overflowed());
    let found = examine(&machine, &end, &recording, &|_| build(Mode::Long, &code, 0), BUDGET);
    assert!(
        matches!(found.notes.as_slice(), [AutopsyNote::RecordingIncomplete { recorded: 1, seen: 3 }]),
        "{:?}",
        found.notes
    );
}

#[test]
#[ignore = "needs /dev/kvm"]
fn random_guests_get_a_summary() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        // xorshift64: the same guests in every run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for (number, mode) in [Mode::Real, Mode::Protected, Mode::Long].into_iter().cycle().take(45).enumerate() {
        let code: Vec<u8> = (0..64).flat_map(|_| random().to_le_bytes()).collect();
        let build = || {
            let mut spec = MachineSpec::new(mode, MEMORY, EntryPoint::Address(Gva(CODE)));
            spec.limits.time = Some(Duration::from_millis(50));
            spec.limits.exits = Some(200);
            let guest = FlatImage { address: Gpa(CODE), bytes: &code };
            Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(io::sink()))
        };
        let mut machine = build().unwrap();
        let mut recording = Recording::new();
        let end = machine.runner().observe(&mut [&mut recording]).run().unwrap().end;
        let found = examine(&machine, &end, &recording, &|_| build(), Duration::from_secs(3));
        let text = summary(&found);
        assert!(text.ends_with('.'), "guest {number}, {mode}: {text}");
        // The limit is generous for busy machines.
        assert!(found.elapsed < Duration::from_secs(60), "guest {number}, {mode}: {:?}", found.elapsed);
        println!("{number} {mode}: {text}");
    }
}
