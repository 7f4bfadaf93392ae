//! Reasons for the control bits and segments of an initial state: one sentence for each, chosen for the machine.
//!
//! [`crate::initial_state`] decides the bits, and [`crate::cpu::control_regs`] describes each. The reasons depend on mode,
//! ring, SSE and page tables, never on the bits, so that a test can compare the two.
//!
//! Sources: SDM vol. 3, 2.5, 4.1, 9.8 and 9.9; AMD APM vol. 2, 3.1.7 and 14.

use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};

use crate::cpu::control_regs::{ControlBit, Cr0, Cr4, Efer, Rflags};
use crate::cpu::reset_state;
use crate::paging::Scheme;
use crate::paging::plan::PagingPlan;
use crate::spec::mode::{Mode, PageSize, Ring};
use crate::spec::{MachineSpec, Register};

/// Control register of an initial state, with all its named bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRegister {
    /// Name of the register, such as `CR0`.
    pub name: &'static str,
    /// Value of the register in the initial state.
    pub value: u64,
    /// Value of the register after reset.
    pub after_reset: u64,
    /// Bits of the register that have a name, lowest first.
    pub bits: Vec<ExplainedBit>,
}

/// Control bit, and the reason for its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExplainedBit {
    /// Number, name and meaning of the bit.
    pub bit: ControlBit,
    /// True if the bit is set.
    pub set: bool,
    /// Reason why the bit is set or clear; `None` for an extension that is clear and irrelevant for the machine.
    pub why: Option<&'static str>,
}

/// Properties of the machine that the reasons depend on.
struct Facts {
    mode: Mode,
    ring: Ring,
    sse: bool,
    scheme: Option<Scheme>,
    largest: Option<PageSize>,
    /// True if a mapping forbids execution.
    guarded: bool,
    /// True if RFLAGS is preset.
    preset_flags: bool,
}

/// Returns CR0, CR4, EFER and RFLAGS of an initial state with the reason for each bit.
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
        sse: boot.sse.unwrap_or(boot.mode.is_long()),
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
        let explain = |bit: &ControlBit| ExplainedBit {
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
        ("PE", mode) if !mode.is_protected() => {
            "clear, this is real mode: a segment is a selector times 16, and there are no rings"
        }
        ("PE", mode) if mode.is_long() => "long mode is a kind of protected mode",
        ("PE", _) => "makes it protected mode: segments come from descriptors, and there are rings",
        ("PG", mode) if !mode.has_paging() => "clear: addresses are physical, there are no page tables",
        ("PG", mode) if mode.is_long() => "there is no long mode without paging",
        ("PG", _) => "every address goes through the page tables at CR3",
        ("WP", mode) if !mode.has_paging() => "clear: there are no pages that it could protect",
        ("WP", _) => {
            "without it ring 0 could write through read-only mappings, and a stray write would go unseen"
        }
        ("NE", mode) if !mode.is_protected() => "clear, as after reset",
        ("NE", _) => {
            "the other way to report FPU errors is a line to an interrupt controller that is not there"
        }
        ("MP", _) if facts.sse => "part of FPU support: WAIT faults too while TS is set",
        ("MP", _) => "clear: FPU state is not switched with TS here",
        ("EM", _) if facts.sse => "clear: set, it would make every SSE instruction fault",
        ("EM", _) => "clear: there is a real FPU, nothing to emulate",
        ("TS", _) => "clear: no FPU state of another task waits to be loaded",
        ("ET", _) => "fixed: KVM, like every CPU since the 486, keeps it at 1",
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
        ("OSXMMEXCPT", _) if facts.sse => "SSE errors raise #XM instead of #UD",
        ("OSXMMEXCPT", _) => "clear: SSE is off here",
        ("SMEP" | "SMAP", Some(_)) if facts.ring == Ring::User => {
            "clear: ring 0 runs only the trap page, which accesses no ring-3 page"
        }
        ("OSXSAVE", _) => "clear: AVX state needs XCR0, which a kernel sets up",
        _ => return None,
    })
}

fn efer(facts: &Facts, bit: &str) -> Option<&'static str> {
    Some(match (bit, facts.scheme?) {
        ("LME", Scheme::FourLevel | Scheme::FiveLevel) => "with it, paging is that of long mode",
        ("LME", Scheme::TwoLevel | Scheme::Pae) => "clear: with it, paging would be that of long mode",
        ("LMA", Scheme::FourLevel | Scheme::FiveLevel) => {
            "a CPU sets it when paging is enabled; KVM_SET_SREGS requires it in the state"
        }
        ("NXE", Scheme::Pae | Scheme::FourLevel | Scheme::FiveLevel) if facts.guarded => {
            "a mapping forbids execution; without this bit, XD in its entries would be reserved and fault"
        }
        ("NXE", Scheme::Pae | Scheme::FourLevel | Scheme::FiveLevel) => "clear: no mapping forbids execution",
        ("NXE", Scheme::TwoLevel) => "clear: entries of 4 bytes have no XD bit",
        ("SCE", Scheme::FourLevel | Scheme::FiveLevel) => {
            "clear: SYSCALL leads to a kernel's entry point, and none is set up"
        }
        _ => return None,
    })
}

fn rflags(facts: &Facts, bit: &str) -> Option<&'static str> {
    Some(match bit {
        "FIXED" => "fixed: CPUs keep it at 1",
        _ if facts.preset_flags => "as [registers] has it",
        "IF" => "clear: there is no interrupt controller, and no handler yet",
        "DF" => "clear: the ABI requires string instructions to go up",
        "IOPL0" | "IOPL1" if facts.ring == Ring::User => {
            "clear: the bitmap in the TSS gives ring 3 its ports"
        }
        _ => return None,
    })
}

/// Returns the reason for the value of a segment or table register: `CS` to `GS`, `TR`, `LDTR`, `GDTR` or `IDTR`.
#[must_use]
pub fn segment(spec: &MachineSpec, register: &str) -> &'static str {
    let user = spec.boot.ring == Ring::User;
    let (real, long) = (!spec.boot.mode.is_protected(), spec.boot.mode.is_long());
    match register {
        "CS" if real => "64 KiB that contain the entry: the base is the selector times 16",
        "CS" if long => "the L bit makes the code 64-bit; base and limit are ignored",
        "CS" => "flat: from 0 over 4 GiB, so an offset is a linear address; the D bit makes the code 32-bit",
        "SS" if real => "so that SS times 16 plus SP is the top of the stack",
        "SS" if user => "the stack of ring 3 must be a ring-3 data segment",
        "SS" if long => "ignored in 64-bit code, but used by compatibility mode and ring changes",
        "DS" | "ES" | "FS" | "GS" if real => "as CS: data next to the code can be addressed",
        "FS" | "GS" if long => "data; a 64-bit guest sets its base by MSR",
        "TR" if real => "as after reset: no tasks in real mode",
        "TR" if user => "holds the ring-0 stack pointer and the ports that ring 3 may use",
        "TR" => "VM entry requires a TSS, even without task switches",
        "LDTR" if real => "as after reset",
        "LDTR" => "empty: there are no local descriptors",
        "GDTR" if real => "as after reset: a guest that leaves real mode loads its own",
        "GDTR" => "the guest can load the selectors that the CPU already has",
        "IDTR" if real => "the vector table at 0, which the guest fills in",
        "IDTR" if user => "every vector leads to the trap page: ring 3 has no handlers",
        "IDTR" => "256 gates, none present: an exception before the guest fills them in is a triple fault",
        _ => "flat data: an offset is a linear address",
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
                    spec.boot.ring = if mode.is_protected() { ring } else { Ring::Kernel };
                    spec.boot.sse = sse;
                    spec.boot.paging.page_size = page_size;
                    spec.boot.paging.five_level = mode.is_long() && sse == Some(false);
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
                for ExplainedBit { bit, set, why } in register.bits {
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
