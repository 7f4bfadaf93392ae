//! Why each control bit of an initial state is as it is: for every bit a sentence, made for the machine at hand.
//!
//! [`crate::initial_state`] decides the bits and [`crate::control`] says what each does; here stands what for. The sentences
//! are chosen by what was asked for (mode, ring, SSE, the page tables), never by the bits, so a bit that is set
//! without a reason would be seen: a test holds the two against each other.
//!
//! Sources: SDM vol. 3, 2.5, 4.1, 9.8 and 9.9; AMD APM vol. 2, 3.1.7 and 14.

use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};

use crate::cpu::control_regs::{ControlBit, Cr0, Cr4, Efer, Rflags};
use crate::cpu::reset_state;
use crate::paging::Scheme;
use crate::paging::plan::PagingPlan;
use crate::spec::mode::{Mode, PageSize, Ring};
use crate::spec::{MachineSpec, Register};

/// A control register of an initial state, with all its named bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRegister {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// Its value after reset.
    pub after_reset: u64,
    /// Its bits, lowest first.
    pub bits: Vec<Explained>,
}

/// A bit and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explained {
    /// The bit.
    pub bit: ControlBit,
    /// Whether it is set.
    pub set: bool,
    /// Why it is set or clear; `None` for an extension that is clear and that this machine has nothing to do with.
    pub why: Option<&'static str>,
}

/// What the reasons depend on.
struct Facts {
    mode: Mode,
    ring: Ring,
    sse: bool,
    scheme: Option<Scheme>,
    largest: Option<PageSize>,
    /// Whether a mapping forbids execution.
    guarded: bool,
    /// Whether RFLAGS is preset.
    preset_flags: bool,
}

/// CR0, CR4, EFER and RFLAGS of an initial state, bit by bit.
#[must_use]
pub fn control_registers(
    spec: &MachineSpec,
    plan: Option<&PagingPlan>,
    sregs: &kvm_sregs,
    regs: &kvm_regs,
) -> Vec<ControlRegister> {
    let boot = &spec.boot;
    let facts = Facts {
        mode: boot.mode,
        ring: boot.ring,
        sse: boot.sse.unwrap_or(boot.mode == Mode::Long),
        scheme: plan.map(|plan| plan.scheme),
        largest: plan.map(|plan| plan.largest),
        guarded: plan.is_some_and(|plan| plan.pieces.iter().any(|piece| !piece.access.executable)),
        preset_flags: boot.registers.iter().any(|(register, _)| *register == Register::Rflags),
    };
    let reset = reset_state::sregs();
    let register = |name,
                    value,
                    after_reset,
                    bits: &'static [ControlBit],
                    why: fn(&Facts, &str) -> Option<&'static str>| {
        let explain = |bit: &ControlBit| Explained {
            bit: *bit,
            set: value >> bit.number & 1 != 0,
            why: why(&facts, bit.name),
        };
        ControlRegister { name, value, after_reset, bits: bits.iter().map(explain).collect() }
    };
    vec![
        register(Cr0::NAME, sregs.cr0, reset.cr0, Cr0::BITS, cr0),
        register(Cr4::NAME, sregs.cr4, reset.cr4, Cr4::BITS, cr4),
        register(Efer::NAME, sregs.efer, reset.efer, Efer::BITS, efer),
        register(Rflags::NAME, regs.rflags, Rflags::FIXED.bits(), Rflags::BITS, rflags),
    ]
}

fn cr0(facts: &Facts, bit: &str) -> Option<&'static str> {
    Some(match (bit, facts.mode) {
        ("PE", Mode::Real) => {
            "clear, this is real mode: a segment is a selector times 16, and there are no rings"
        }
        ("PE", Mode::Long) => "long mode is a kind of protected mode",
        ("PE", _) => "makes it protected mode: segments come from descriptors, and there are rings",
        ("PG", mode) if !mode.has_paging() => "clear: addresses are physical, there are no page tables",
        ("PG", Mode::Long) => "there is no long mode without paging",
        ("PG", _) => "every address goes through the page tables at CR3",
        ("WP", mode) if !mode.has_paging() => "clear: there are no pages that it could protect",
        ("WP", _) => {
            "without it ring 0 could write through read-only mappings, and a stray write would go unseen"
        }
        ("NE", Mode::Real) => "clear, as after reset",
        ("NE", _) => {
            "the other way to report FPU errors is a line to an interrupt controller that is not there"
        }
        ("MP", _) if facts.sse => "belongs to a working FPU: then WAIT too faults while TS is set",
        ("MP", _) => "clear: nobody switches FPU state with TS here",
        ("EM", _) if facts.sse => "clear: set, it would make every SSE instruction fault",
        ("EM", _) => "clear: there is a real FPU, nothing to emulate",
        ("TS", _) => "clear: no FPU state of another task waits to be loaded",
        ("ET", _) => "no choice: KVM, like every CPU since the 486, keeps it at 1",
        ("AM", _) => "clear: no alignment checks until a kernel asks for them",
        ("NW" | "CD", _) => "set at reset, cleared here: caches work, as firmware would leave them",
        _ => return None,
    })
}

fn cr4(facts: &Facts, bit: &str) -> Option<&'static str> {
    Some(match (bit, facts.scheme) {
        ("PSE", Some(Scheme::TwoLevel)) if facts.largest == Some(PageSize::Size4M) => {
            "a directory entry can map 4 MiB by itself: fewer tables"
        }
        ("PSE", Some(Scheme::TwoLevel)) => "clear: only 4 KiB pages were asked for",
        ("PSE", Some(_)) => "clear: with 8-byte entries, large pages need no permission",
        ("PAE", Some(Scheme::TwoLevel)) => "clear: entries of 4 bytes, two levels, 32-bit physical addresses",
        ("PAE", Some(Scheme::Pae)) => "this bit is the mode: entries of 8 bytes, three levels",
        ("PAE", Some(Scheme::FourLevel | Scheme::FiveLevel)) => {
            "long mode's entries have 8 bytes: paging without it is refused (#GP)"
        }
        ("LA57", Some(Scheme::FiveLevel)) => "five levels: virtual addresses of 57 bits",
        ("LA57", Some(Scheme::FourLevel)) => "clear: four levels, virtual addresses of 48 bits",
        ("OSFXSR", _) if facts.sse => {
            "SSE instructions raise #UD without it, and 64-bit compilers use them freely"
        }
        ("OSFXSR", _) => "clear: SSE is off here (`sse = true` switches it on)",
        ("OSXMMEXCPT", _) if facts.sse => "an SSE error is reported as what it is (#XM), not as #UD",
        ("OSXMMEXCPT", _) => "clear: SSE is off here",
        ("SMEP" | "SMAP", Some(_)) if facts.ring == Ring::User => {
            "clear: ring 0 is only the landing page, and touches nothing of ring 3's"
        }
        ("OSXSAVE", _) => "clear: AVX state wants XCR0 set up first, which is a kernel's work",
        _ => return None,
    })
}

fn efer(facts: &Facts, bit: &str) -> Option<&'static str> {
    Some(match (bit, facts.mode) {
        ("LME", Mode::Long) => "makes paging long mode's",
        ("LME", Mode::Paged | Mode::Pae) => "clear: with it, this paging would be long mode's",
        ("LMA", Mode::Long) => {
            "a CPU sets it by itself when paging goes on; KVM takes the state as it is, so it is given"
        }
        ("NXE", Mode::Pae | Mode::Long) if facts.guarded => {
            "a mapping forbids execution; without this bit, XD in its entries would be reserved and fault"
        }
        ("NXE", Mode::Pae | Mode::Long) => "clear: no mapping forbids execution",
        ("NXE", Mode::Paged) => "clear: entries of 4 bytes have no XD bit",
        ("SCE", Mode::Long) => "clear: SYSCALL leads to a kernel's entry point, and none is set up",
        _ => return None,
    })
}

fn rflags(facts: &Facts, bit: &str) -> Option<&'static str> {
    Some(match bit {
        "FIXED" => "no choice: CPUs keep it at 1",
        _ if facts.preset_flags => "as [registers] has it",
        "IF" => "clear: there is no interrupt controller, and no handler yet",
        "DF" => "clear: the ABI wants string instructions to go up",
        "IOPL0" | "IOPL1" if facts.ring == Ring::User => {
            "clear: ring 3 gets its ports from the TSS's bitmap, not from here"
        }
        _ => return None,
    })
}

/// What a segment or table register is for in a mode: `CS` to `GS`, `TR`, `LDTR`, `GDTR`, `IDTR`.
#[must_use]
pub fn segment(spec: &MachineSpec, register: &str) -> &'static str {
    let user = spec.boot.ring == Ring::User;
    match (register, spec.boot.mode) {
        ("CS", Mode::Real) => "the window that the entry lies in: base is the selector times 16",
        ("CS", Mode::Long) => "the L bit makes the code 64-bit; base and limit do not count",
        ("CS", _) => {
            "flat: from 0 over 4 GiB, so an offset is a linear address; the D bit makes the code 32-bit"
        }
        ("SS", Mode::Real) => "so that SS times 16 plus SP is the top of the stack",
        ("SS", _) if user => "the stack of ring 3 must be a ring-3 data segment",
        ("SS", Mode::Long) => "not looked at in 64-bit code; a compat-mode or ring change will",
        ("DS" | "ES" | "FS" | "GS", Mode::Real) => "as CS: data beside the code is in reach",
        ("FS" | "GS", Mode::Long) => "data; a 64-bit guest moves its base by MSR",
        ("TR", Mode::Real) => "as after reset: no tasks in real mode",
        ("TR", _) if user => "the CPU finds the ring-0 stack there, and which ports ring 3 may use",
        ("TR", _) => "VM entry demands a TSS, even if nobody switches tasks",
        ("LDTR", Mode::Real) => "as after reset",
        ("LDTR", _) => "empty: there are no local descriptors",
        ("GDTR", Mode::Real) => "as after reset: a guest that leaves real mode loads its own",
        ("GDTR", _) => "so that a selector that the guest loads finds what the CPU already has",
        ("IDTR", Mode::Real) => "the vector table at 0, which is the guest's to fill in",
        ("IDTR", _) if user => "every vector leads to the landing page: ring 3 has no handlers of its own",
        ("IDTR", _) => {
            "256 gates, none present: an exception before the guest fills them in is a triple fault"
        }
        (_, _) => "flat data: an offset is a linear address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initial_state::{HostQuirks, initial_state};
    use crate::layout::{self, LayoutEntry};
    use crate::spec::gpa_range::GpaRange;
    use crate::spec::{EntryPoint, Mapping, PagePermissions};
    use crate::{Gpa, Gva};

    fn explained(spec: &MachineSpec) -> Vec<ControlRegister> {
        let guest = LayoutEntry::guest("guest", GpaRange::new(Gpa(0x8000), 0x1000).unwrap());
        let layout = layout::compute(spec, &[guest]).unwrap();
        let state = initial_state(&reset_state::sregs(), spec, &layout, HostQuirks::default()).unwrap();
        control_registers(spec, layout.paging(), &state.sregs, &state.regs)
    }

    fn machines() -> Vec<MachineSpec> {
        let mut machines = Vec::new();
        for mode in Mode::ALL {
            let sizes = mode.page_sizes().iter().filter(|size| **size != PageSize::Size1G);
            for page_size in sizes.map(|size| Some(*size)).chain([None]) {
                for (ring, sse) in
                    [(Ring::Kernel, None), (Ring::User, Some(true)), (Ring::Kernel, Some(false))]
                {
                    let mut spec = MachineSpec::new(mode, 8 << 20, EntryPoint::Address(Gva(0x8000)));
                    spec.boot.ring = if mode == Mode::Real { Ring::Kernel } else { ring };
                    spec.boot.sse = sse;
                    spec.boot.paging.page_size = page_size;
                    spec.boot.paging.five_level = mode == Mode::Long && sse == Some(false);
                    if matches!(mode, Mode::Pae | Mode::Long) && ring == Ring::User {
                        let access = PagePermissions { writable: true, user: true, executable: false };
                        let map = Mapping { gva: Gva(0x4000_0000), gpa: Gpa(0), size: 0x1000, access };
                        spec.boot.paging.maps.push(map);
                    }
                    machines.push(spec);
                }
            }
        }
        machines
    }

    #[test]
    fn every_bit_that_is_set_has_a_reason_and_the_reason_agrees_with_the_bit() {
        for spec in machines() {
            for register in explained(&spec) {
                assert_eq!(
                    register.bits.iter().map(|b| u64::from(b.set) << b.bit.number).sum::<u64>(),
                    register.value
                );
                for Explained { bit, set, why } in register.bits {
                    let name = format!("{} {}.{}", spec.boot.mode, register.name, bit.name);
                    assert!(!set || why.is_some(), "{name} is set without a reason");
                    let cleared = why.is_some_and(|why| why.contains("clear"));
                    assert!(why.is_none() || cleared != set, "{name} = {set}: {why:?}");
                }
            }
        }
    }

    #[test]
    fn every_bit_of_cr0_has_a_reason() {
        for spec in machines() {
            assert!(explained(&spec)[0].bits.iter().all(|bit| bit.why.is_some()), "{}", spec.boot.mode);
        }
    }
}
