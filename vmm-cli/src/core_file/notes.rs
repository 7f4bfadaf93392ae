//! Notes of a core file: a vCPU's registers in the format that Linux uses for a thread.
//!
//! A debugger sees the vCPU as thread 1 of a process, and the end of the run as the signal that ended the process.
//!
//! After an exception in ring 3, the registers are those of the code that raised it, from the exception frame on the stack.

use vmm_core::kvm_sys_wrap::VcpuState;
use vmm_core::kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use vmm_core::machine::end::{End, EndClass};

use super::headers::Class;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
/// FXSAVE area in a 32-bit core file, where NT_FPREGSET is the older FSAVE area.
const NT_PRXFPREG: u32 = 0x46e6_2b7f;

const SIGINT: u16 = 2;
const SIGILL: u16 = 4;
const SIGTRAP: u16 = 5;
const SIGFPE: u16 = 8;
const SIGSEGV: u16 = 11;
const SIGXCPU: u16 = 24;

/// Returns all notes of a vCPU.
pub(super) fn of_vcpu(class: Class, state: &VcpuState, end: Option<&End>) -> Vec<u8> {
    let (mut regs, mut sregs) = (state.regs, state.sregs);
    if let Some(End::Exception { frame: Some(frame), .. }) = end {
        (regs.rip, regs.rflags, regs.rsp) = (frame.rip, frame.rflags, frame.rsp);
        (sregs.cs.selector, sregs.ss.selector) = (selector(frame.cs), selector(frame.ss));
    }
    let status = status(class, &regs, &sregs, signal(end));
    let fpu = state.fxsave();
    let fpu = match class {
        Class::Bits32 => note("LINUX", NT_PRXFPREG, &fpu),
        Class::Bits64 => note("CORE", NT_FPREGSET, &fpu),
    };
    [note("CORE", NT_PRSTATUS, &status), fpu].concat()
}

/// Formats a note: sizes, type, name and contents, each padded to 4 bytes (gABI, chapter 5, "Note Section").
fn note(name: &str, kind: u32, contents: &[u8]) -> Vec<u8> {
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut bytes: Vec<u8> = [length(name.len() + 1), length(contents.len()), kind]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    for part in [[name.as_bytes(), b"\0"].concat().as_slice(), contents] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Formats `struct elf_prstatus`: signal, process, times, registers.
fn status(class: Class, regs: &kvm_regs, sregs: &kvm_sregs, signal: u16) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend(signal.to_le_bytes());
    bytes.resize(16, 0);
    // Pending and held signals, one word each. Then process (number 1), parent, group and session.
    let (words, times): (usize, usize) = match class {
        Class::Bits32 => (4, 8),
        Class::Bits64 => (8, 16),
    };
    bytes.resize(16 + 2 * words, 0);
    bytes.extend([1_u32, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes));
    // User and system time of the process and its children.
    bytes.resize(bytes.len() + 4 * times, 0);
    match class {
        Class::Bits32 => bytes.extend(registers_32(regs, sregs).into_iter().flat_map(u32::to_le_bytes)),
        Class::Bits64 => bytes.extend(registers_64(regs, sregs).into_iter().flat_map(u64::to_le_bytes)),
    }
    // Presence of floating-point registers, and padding to a multiple of the word.
    bytes.extend(1_u32.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(words), 0);
    bytes
}

/// Returns `struct user_regs_struct` of x86-64. orig_rax is -1: no system call is in progress.
fn registers_64(r: &kvm_regs, s: &kvm_sregs) -> [u64; 27] {
    let selector = |segment: &vmm_core::kvm_sys_wrap::bindings::kvm_segment| u64::from(segment.selector);
    [
        r.r15,
        r.r14,
        r.r13,
        r.r12,
        r.rbp,
        r.rbx,
        r.r11,
        r.r10,
        r.r9,
        r.r8,
        r.rax,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        u64::MAX,
        r.rip,
        selector(&s.cs),
        r.rflags,
        r.rsp,
        selector(&s.ss),
        s.fs.base,
        s.gs.base,
        selector(&s.ds),
        selector(&s.es),
        selector(&s.fs),
        selector(&s.gs),
    ]
}

/// Returns `struct user_regs_struct` of i386.
fn registers_32(r: &kvm_regs, s: &kvm_sregs) -> [u32; 17] {
    [
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rbp,
        r.rax,
        s.ds.selector.into(),
        s.es.selector.into(),
        s.fs.selector.into(),
        s.gs.selector.into(),
        u64::MAX,
        r.rip,
        s.cs.selector.into(),
        r.rflags,
        r.rsp,
        s.ss.selector.into(),
    ]
    .map(low_half)
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX)
}

fn selector(word: u64) -> u16 {
    u16::try_from(word & 0xffff).unwrap_or(u16::MAX)
}

/// Returns the signal that describes the end best. 0 if the guest ended the run, SIGTRAP if the run has not ended.
fn signal(end: Option<&End>) -> u16 {
    let Some(end) = end else { return SIGTRAP };
    match end.class() {
        EndClass::Finished => 0,
        EndClass::Stopped if *end == End::Interrupted => SIGINT,
        EndClass::Stopped => SIGXCPU,
        EndClass::Failed => {
            if let End::Exception { vector, .. } = end {
                match vector {
                    0 | 16 | 19 => SIGFPE,
                    1 | 3 => SIGTRAP,
                    6 => SIGILL,
                    _ => SIGSEGV,
                }
            } else if let End::InternalError { .. } | End::FailEntry { .. } = end {
                SIGILL
            } else {
                SIGSEGV
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_those_of_linux() {
        let (regs, sregs) = (kvm_regs::default(), kvm_sregs::default());
        assert_eq!(status(Class::Bits64, &regs, &sregs, 0).len(), 336);
        assert_eq!(status(Class::Bits32, &regs, &sregs, 0).len(), 144);
    }

    #[test]
    fn registers_stand_where_linux_has_them() {
        let regs = kvm_regs { rip: 0x1234, rax: 0x55, ..kvm_regs::default() };
        let wide = status(Class::Bits64, &regs, &kvm_sregs::default(), SIGSEGV);
        assert_eq!((&wide[12..14], &wide[32..36]), (&[11, 0][..], &[1, 0, 0, 0][..]));
        assert_eq!(wide[112 + 16 * 8..][..8], 0x1234_u64.to_le_bytes());
        let narrow = status(Class::Bits32, &regs, &kvm_sregs::default(), SIGSEGV);
        assert_eq!(narrow[72 + 12 * 4..][..4], 0x1234_u32.to_le_bytes());
        assert_eq!(narrow[72 + 6 * 4..][..4], 0x55_u32.to_le_bytes());
    }

    #[test]
    fn a_note_is_padded() {
        let bytes = note("LINUX", 9, &[1]);
        assert_eq!(
            bytes,
            [6, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, b'L', b'I', b'N', b'U', b'X', 0, 0, 0, 1, 0, 0, 0]
        );
    }
}
