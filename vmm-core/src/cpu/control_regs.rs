//! Control registers: name and meaning of each bit of CR0, CR4, EFER and RFLAGS.
//!
//! Each register is a `bitflags` type over its 64 bits. Its `Display` lists the names of the set bits; bits without a name
//! are kept and shown by number. [`crate::initial_state`] decides which bits a mode needs.
//!
//! Sources: Intel SDM vol. 3, 2.3 (RFLAGS), 2.5 (CR0, CR4), 2.2.1 (EFER); AMD APM vol. 2, 3.1.7 (EFER).

use std::fmt;

/// Named bit of a control register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlBit {
    /// Number of the bit in its register, 0 to 63.
    pub number: u8,
    /// Name of the bit in the manuals, such as `PE`.
    pub name: &'static str,
    /// Effect of the set bit, in a few words.
    pub meaning: &'static str,
}

macro_rules! control_register {
    ($(#[$doc:meta])* $register:ident, $label:literal { $($bit:ident = $number:literal $meaning:literal,)* }) => {
        bitflags::bitflags! {
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            pub struct $register: u64 {
                $(#[doc = concat!("Bit ", $number, ", `", stringify!($bit), "`: ", $meaning, ".")] const $bit = 1 << $number;)*
            }
        }

        impl $register {
            /// Name of the register in messages.
            pub const NAME: &'static str = $label;

            /// Bits that have a name, lowest first.
            pub const BITS: &'static [ControlBit] =
                &[$(ControlBit { number: $number, name: stringify!($bit), meaning: $meaning }),*];
        }

        impl fmt::Display for $register {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_names(f, self.bits(), Self::BITS)
            }
        }
    };
}

control_register! {
    /// Control register 0: protection, paging, caching and the FPU.
    Cr0, "CR0" {
        PE = 0 "protected mode",
        MP = 1 "WAIT obeys TS",
        EM = 2 "no FPU: x87 and SSE instructions fault",
        TS = 3 "task switched: the next FPU instruction faults",
        ET = 4 "always 1 since the 486",
        NE = 5 "FPU errors raise #MF instead of an interrupt line",
        WP = 16 "ring 0 obeys read-only pages",
        AM = 18 "alignment checks allowed in ring 3",
        NW = 29 "not write-through",
        CD = 30 "caches off",
        PG = 31 "paging",
    }
}

control_register! {
    /// Control register 4: extensions to the architecture, each switched on by software that knows it.
    Cr4, "CR4" {
        VME = 0 "virtual-8086 extensions",
        PVI = 1 "protected-mode virtual interrupts",
        TSD = 2 "RDTSC only in ring 0",
        DE = 3 "debugging extensions: I/O breakpoints",
        PSE = 4 "4 MiB pages in two-level paging",
        PAE = 5 "8-byte page table entries",
        MCE = 6 "machine-check exceptions",
        PGE = 7 "global pages survive CR3 loads",
        PCE = 8 "RDPMC in ring 3",
        OSFXSR = 9 "FXSAVE and SSE instructions",
        OSXMMEXCPT = 10 "SSE errors raise #XM",
        UMIP = 11 "SGDT, SIDT, SLDT, SMSW and STR only in ring 0",
        LA57 = 12 "five-level paging",
        VMXE = 13 "VMX instructions",
        SMXE = 14 "SMX instructions",
        FSGSBASE = 16 "RDFSBASE and its family",
        PCIDE = 17 "process-context identifiers in CR3",
        OSXSAVE = 18 "XSAVE and XGETBV",
        KL = 19 "key locker",
        SMEP = 20 "ring 0 may not execute user pages",
        SMAP = 21 "ring 0 may not touch user pages",
        PKE = 22 "protection keys for user pages",
        CET = 23 "control-flow enforcement",
        PKS = 24 "protection keys for supervisor pages",
    }
}

control_register! {
    /// The extended feature enable register, MSR 0xc000_0080: long mode and what came with it.
    Efer, "EFER" {
        SCE = 0 "SYSCALL and SYSRET",
        LME = 8 "long mode enabled: active once paging is on",
        LMA = 10 "long mode active",
        NXE = 11 "the execute-disable bit of page table entries counts",
        SVME = 12 "SVM instructions",
        LMSLE = 13 "segment limits in long mode",
        FFXSR = 14 "fast FXSAVE and FXRSTOR",
        TCE = 15 "translation cache extension",
        AUTOIBRS = 21 "automatic IBRS",
    }
}

control_register! {
    /// RFLAGS register: status, control and system flags (SDM vol. 3, 2.3). IOPL, bits 12 and 13, is one number of two bits.
    Rflags, "RFLAGS" {
        CF = 0 "carry",
        FIXED = 1 "always 1",
        PF = 2 "parity",
        AF = 4 "auxiliary carry",
        ZF = 6 "zero",
        SF = 7 "sign",
        TF = 8 "trap after each instruction",
        IF = 9 "interrupts enabled",
        DF = 10 "string instructions go down",
        OF = 11 "overflow",
        IOPL0 = 12 "I/O privilege level, low bit",
        IOPL1 = 13 "I/O privilege level, high bit",
        NT = 14 "nested task",
        RF = 16 "resume: no breakpoint on the next instruction",
        VM = 17 "virtual-8086 mode",
        AC = 18 "alignment check, or user access under SMAP",
        VIF = 19 "virtual interrupt flag",
        VIP = 20 "virtual interrupt pending",
        ID = 21 "CPUID can be used",
    }
}

/// Writes the names of the bits set in `value`, lowest first; `-` if none is.
fn write_names(f: &mut fmt::Formatter<'_>, value: u64, names: &[ControlBit]) -> fmt::Result {
    if value == 0 {
        return f.write_str("-");
    }
    let mut separator = "";
    for number in 0..64 {
        if value & (1 << number) == 0 {
            continue;
        }
        match names.iter().find(|bit| bit.number == number) {
            Some(bit) => write!(f, "{separator}{}", bit.name)?,
            None => write!(f, "{separator}bit{number}")?,
        }
        separator = " ";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_value_of_cr0_is_shown_by_name() {
        assert_eq!(Cr0::from_bits_retain(0x6000_0010).to_string(), "ET NW CD");
    }

    #[test]
    fn bits_without_a_name_are_not_hidden() {
        assert_eq!(Cr4::from_bits_retain(1 << 5 | 1 << 63).to_string(), "PAE bit63");
        assert_eq!(Efer::empty().to_string(), "-");
    }

    #[test]
    fn every_name_stands_for_the_bit_it_is_listed_with() {
        for (flags, bits) in [
            (Cr0::all().bits(), Cr0::BITS),
            (Cr4::all().bits(), Cr4::BITS),
            (Efer::all().bits(), Efer::BITS),
            (Rflags::all().bits(), Rflags::BITS),
        ] {
            assert_eq!(bits.iter().map(|bit| 1u64 << bit.number).sum::<u64>(), flags);
        }
    }
}
