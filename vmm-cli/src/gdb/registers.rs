//! Converts a vCPU's registers between KVM's structures and gdb's `g` packets.
//!
//! The order of the registers is that of the target description (`target_xml.rs`). gdbstub_arch serializes the part
//! that gdb knows by name. Two things differ from a process's registers. The instruction pointer is a linear address,
//! like symbols and breakpoints, also in real mode (`$ip` is the offset). Segments and control registers are read-only,
//! since a selector without its descriptor would be meaningless.

use gdbstub::arch::{Arch, RegId, Registers};
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use vmm_core::cpu::cpu_state::linear_rip;
use vmm_core::kvm_sys_wrap::VcpuState;
use vmm_core::kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};

use super::target_xml::{CONTROL, RegisterLayout};

/// x86 in any mode, with 64-bit addresses.
#[derive(Debug)]
pub(super) enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = RegisterPacket;
    type BreakpointKind = usize;
    type RegId = RegisterNumber;
}

/// Number of a register in the target description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RegisterNumber(pub(super) usize);

impl RegId for RegisterNumber {
    fn from_raw_id(id: usize) -> Option<(Self, Option<std::num::NonZeroUsize>)> {
        Some((Self(id), None))
    }
}

/// All registers in the form of a packet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct RegisterPacket {
    pub(super) bytes: Vec<u8>,
    pc: u64,
}

impl Registers for RegisterPacket {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.pc
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for byte in &self.bytes {
            write_byte(Some(*byte));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        bytes.clone_into(&mut self.bytes);
        Ok(())
    }
}

/// The packet changes a register that is read-only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadOnlyRegister;

impl RegisterPacket {
    /// Serializes the registers of a vCPU.
    pub(super) fn from_state(state: &VcpuState, layout: RegisterLayout) -> Self {
        let VcpuState { regs, sregs, .. } = state;
        let pc = linear_rip(regs, sregs);
        let fpu = Fpu(state.fxsave());
        let mut bytes = Vec::new();
        let push = |byte: Option<u8>| bytes.push(byte.unwrap_or(0));
        if layout.is_wide() {
            core_64(regs, sregs, pc, &fpu).gdb_serialize(push);
        } else {
            core_32(regs, sregs, pc, &fpu).gdb_serialize(push);
        }
        for value in control(regs, sregs) {
            bytes.extend(value.to_le_bytes());
        }
        Self { bytes, pc }
    }

    /// Sets the registers of a vCPU to those of the packet.
    pub(super) fn apply(
        &self,
        state: &mut VcpuState,
        layout: RegisterLayout,
    ) -> Result<(), ReadOnlyRegister> {
        let before = Self::from_state(state, layout);
        let base = before.pc.wrapping_sub(state.regs.rip);
        let core = if layout.is_wide() {
            CoreRegisters::wide(&self.bytes)
        } else {
            CoreRegisters::narrow(&self.bytes)
        };
        let mut changed = state.clone();
        core.ok_or(ReadOnlyRegister)?.apply(&mut changed, base);
        // Whatever was not applied is read-only and must be unchanged.
        if Self::from_state(&changed, layout).bytes != self.bytes {
            return Err(ReadOnlyRegister);
        }
        *state = changed;
        Ok(())
    }

    /// Returns the byte range of a register in the packet.
    pub(super) fn range(
        layout: RegisterLayout,
        RegisterNumber(number): RegisterNumber,
    ) -> Option<std::ops::Range<usize>> {
        let registers = layout.registers();
        let bytes = |bits: u16| usize::from(bits / 8);
        let start = registers.get(..number)?.iter().map(|register| bytes(register.bits)).sum();
        let length = bytes(registers.get(number)?.bits);
        Some(start..start + length)
    }
}

fn control(regs: &kvm_regs, sregs: &kvm_sregs) -> [u64; CONTROL.len()] {
    [
        sregs.cr0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        sregs.efer,
        sregs.cs.base,
        sregs.ss.base,
        sregs.ds.base,
        sregs.es.base,
        sregs.fs.base,
        sregs.gs.base,
        regs.rip,
    ]
}

fn core_64(r: &kvm_regs, sregs: &kvm_sregs, pc: u64, fpu: &Fpu) -> X86_64CoreRegs {
    X86_64CoreRegs {
        regs: [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ],
        eflags: low(r.rflags),
        rip: pc,
        segments: segments(sregs),
        st: std::array::from_fn(|number| fpu.st(number)),
        fpu: fpu.internal(),
        xmm: std::array::from_fn(|number| fpu.xmm(number)),
        mxcsr: fpu.word_32(MXCSR),
    }
}

fn core_32(r: &kvm_regs, sregs: &kvm_sregs, pc: u64, fpu: &Fpu) -> X86CoreRegs {
    X86CoreRegs {
        eax: low(r.rax),
        ecx: low(r.rcx),
        edx: low(r.rdx),
        ebx: low(r.rbx),
        esp: low(r.rsp),
        ebp: low(r.rbp),
        esi: low(r.rsi),
        edi: low(r.rdi),
        eip: low(pc),
        eflags: low(r.rflags),
        segments: segments(sregs),
        st: std::array::from_fn(|number| fpu.st(number)),
        fpu: fpu.internal(),
        xmm: std::array::from_fn(|number| fpu.xmm(number)),
        mxcsr: fpu.word_32(MXCSR),
    }
}

fn segments(sregs: &kvm_sregs) -> X86SegmentRegs {
    X86SegmentRegs {
        cs: sregs.cs.selector.into(),
        ss: sregs.ss.selector.into(),
        ds: sregs.ds.selector.into(),
        es: sregs.es.selector.into(),
        fs: sregs.fs.selector.into(),
        gs: sregs.gs.selector.into(),
    }
}

/// Writable registers.
struct CoreRegisters {
    general: GeneralRegisters,
    pc: u64,
    eflags: u32,
    st: [[u8; 10]; 8],
    fpu: X87FpuInternalRegs,
    xmm: Vec<u128>,
    mxcsr: u32,
}

enum GeneralRegisters {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15.
    Wide([u64; 16]),
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    Narrow([u32; 8]),
}

impl CoreRegisters {
    fn wide(bytes: &[u8]) -> Option<Self> {
        let mut core = X86_64CoreRegs::default();
        core.gdb_deserialize(bytes).ok()?;
        let X86_64CoreRegs { regs, eflags, rip, st, fpu, xmm, mxcsr, .. } = core;
        Some(Self {
            general: GeneralRegisters::Wide(regs),
            pc: rip,
            eflags,
            st,
            fpu,
            xmm: xmm.to_vec(),
            mxcsr,
        })
    }

    fn narrow(bytes: &[u8]) -> Option<Self> {
        let mut core = X86CoreRegs::default();
        core.gdb_deserialize(bytes).ok()?;
        let X86CoreRegs { eax, ecx, edx, ebx, esp, ebp, esi, edi, eip, eflags, st, fpu, xmm, mxcsr, .. } =
            core;
        let general = GeneralRegisters::Narrow([eax, ecx, edx, ebx, esp, ebp, esi, edi]);
        Some(Self { general, pc: eip.into(), eflags, st, fpu, xmm: xmm.to_vec(), mxcsr })
    }

    fn apply(&self, state: &mut VcpuState, base: u64) {
        let r = &mut state.regs;
        match self.general {
            GeneralRegisters::Wide(values) => {
                let fields = [
                    &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp,
                    &mut r.rsp, &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13,
                    &mut r.r14, &mut r.r15,
                ];
                for (field, value) in fields.into_iter().zip(values) {
                    *field = value;
                }
                r.rip = self.pc.wrapping_sub(base);
            }
            GeneralRegisters::Narrow(values) => {
                let fields = [
                    &mut r.rax, &mut r.rcx, &mut r.rdx, &mut r.rbx, &mut r.rsp, &mut r.rbp, &mut r.rsi,
                    &mut r.rdi,
                ];
                for (field, value) in fields.into_iter().zip(values) {
                    *field = *field >> 32 << 32 | u64::from(value);
                }
                r.rip = self.pc.wrapping_sub(base) & 0xffff_ffff;
            }
        }
        r.rflags = r.rflags >> 32 << 32 | u64::from(self.eflags);
        let before = Fpu(state.fxsave());
        let mut fpu = Fpu(before.0);
        fpu.set(&self.st, &self.fpu, &self.xmm, self.mxcsr);
        if fpu.0 != before.0 {
            state.set_fxsave(&fpu.0);
        }
    }
}

/// Offsets in an FXSAVE area (SDM vol. 1, table 10-2).
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;

/// An FXSAVE area.
struct Fpu([u8; 512]);

impl Fpu {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn word_32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn word_16(&self, at: usize) -> u32 {
        u16::from_le_bytes(self.bytes(at)).into()
    }

    fn st(&self, number: usize) -> [u8; 10] {
        self.bytes(ST + 16 * number)
    }

    fn xmm(&self, number: usize) -> u128 {
        u128::from_le_bytes(self.bytes(XMM + 16 * number))
    }

    fn internal(&self) -> X87FpuInternalRegs {
        let [tags] = self.bytes(4);
        X87FpuInternalRegs {
            fctrl: self.word_16(0),
            fstat: self.word_16(2),
            // FXSAVE has one tag bit for each register and gdb expects two: 11 is empty.
            ftag: (0..8).filter(|number| tags & 1 << number == 0).map(|number| 0b11 << (2 * number)).sum(),
            fiseg: self.word_16(12),
            fioff: self.word_32(8),
            foseg: self.word_16(20),
            fooff: self.word_32(16),
            fop: self.word_16(6),
        }
    }

    fn set(&mut self, st: &[[u8; 10]; 8], fpu: &X87FpuInternalRegs, xmm: &[u128], mxcsr: u32) {
        for (number, value) in st.iter().enumerate() {
            self.put(ST + 16 * number, value);
        }
        for (number, value) in xmm.iter().enumerate() {
            self.put(XMM + 16 * number, &value.to_le_bytes());
        }
        self.put(MXCSR, &mxcsr.to_le_bytes());
        let tags: u8 = (0..8)
            .filter(|number| fpu.ftag >> (2 * number) & 0b11 != 0b11)
            .map(|number| 1_u8 << number)
            .sum();
        self.put(4, &[tags]);
        for (at, value) in [(0, fpu.fctrl), (2, fpu.fstat), (6, fpu.fop), (12, fpu.fiseg), (20, fpu.foseg)] {
            let [low, high, ..] = value.to_le_bytes();
            self.put(at, &[low, high]);
        }
        self.put(8, &fpu.fioff.to_le_bytes());
        self.put(16, &fpu.fooff.to_le_bytes());
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn low(value: u64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use vmm_core::cpu::cpu_state::OperandWidth;

    use super::*;

    #[test]
    fn a_register_lies_where_the_description_says() {
        let wide = RegisterLayout { code: OperandWidth::Bits64 };
        let named = |name| RegisterNumber(wide.registers().iter().position(|r| r.name == name).unwrap());
        assert_eq!(RegisterPacket::range(wide, named("rax")), Some(0..8));
        assert_eq!(RegisterPacket::range(wide, named("rip")), Some(128..136));
        assert_eq!(RegisterPacket::range(wide, named("mxcsr")), Some(532..536));
        assert_eq!(RegisterPacket::range(wide, named("cr0")), Some(536..544));
        assert_eq!(RegisterPacket::range(wide, RegisterNumber(999)), None);
    }

    #[test]
    fn the_fpu_survives_the_way_there_and_back() {
        let mut fpu = Fpu(std::array::from_fn(|index| u8::try_from(index % 251).unwrap()));
        let before = fpu.0;
        let st: [_; 8] = std::array::from_fn(|number| fpu.st(number));
        let xmm: Vec<_> = (0..16).map(|number| fpu.xmm(number)).collect();
        let (internal, mxcsr) = (fpu.internal(), fpu.word_32(MXCSR));
        fpu.set(&st, &internal, &xmm, mxcsr);
        assert_eq!(fpu.0, before);
    }
}
