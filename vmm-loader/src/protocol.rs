//! Boot protocols by name, and the operand width at a kernel's entry.

use std::fmt;

/// Boot protocol: how a file is loaded and entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[cfg_attr(
    feature = "schemars",
    derive(schemars::JsonSchema),
    schemars(rename = "BootProtocol", description = "Boot protocol.")
)]
#[non_exhaustive]
pub enum Protocol {
    /// Plain ELF file, entered without boot information.
    #[cfg_attr(feature = "schemars", schemars(description = "ELF file, loaded and entered in `mode`."))]
    Elf,
    /// Multiboot 1: 32-bit entry, information in EBX.
    Multiboot,
    /// Multiboot 2: 32-bit entry, a list of tags in EBX.
    Multiboot2,
    /// PVH: 32-bit entry of Xen's ELF note, start information in EBX.
    Pvh,
    /// Linux boot protocol for a bzImage or vmlinux: zero page in RSI.
    Linux,
    /// Flat binary: bytes at an address, entered without boot information.
    #[cfg_attr(
        feature = "schemars",
        schemars(description = "Bytes loaded at `address` and entered in `mode`.")
    )]
    Flat,
    /// 512 bytes at 0x7c00 in real mode, without a BIOS.
    BootSector,
}

impl Protocol {
    /// All protocols, in the order of declaration.
    pub const ALL: &'static [Self] =
        &[Self::Elf, Self::Multiboot, Self::Multiboot2, Self::Pvh, Self::Linux, Self::Flat, Self::BootSector];

    /// Returns the lower-case name, such as `boot-sector`. Serialization uses the same names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Elf => "elf",
            Self::Multiboot => "multiboot",
            Self::Multiboot2 => "multiboot2",
            Self::Pvh => "pvh",
            Self::Linux => "linux",
            Self::Flat => "flat",
            Self::BootSector => "boot-sector",
        }
    }

    /// Returns true if the file is only loaded and entered, so that the caller chooses the CPU mode.
    #[must_use]
    pub const fn is_plain(self) -> bool {
        match self {
            Self::Elf | Self::Flat => true,
            Self::Multiboot | Self::Multiboot2 | Self::Pvh | Self::Linux | Self::BootSector => false,
        }
    }

    /// Returns true if the kernel gets boot information: a command line, modules and a memory map.
    #[must_use]
    pub const fn takes_boot_info(self) -> bool {
        match self {
            Self::Multiboot | Self::Multiboot2 | Self::Pvh | Self::Linux => true,
            Self::Elf | Self::Flat | Self::BootSector => false,
        }
    }

    /// Returns the operand widths that an entry by this protocol can have, the usual one first.
    #[must_use]
    pub const fn entry_widths(self) -> &'static [OperandWidth] {
        match self {
            Self::Elf | Self::Flat => &[OperandWidth::Bits64, OperandWidth::Bits32, OperandWidth::Bits16],
            Self::Multiboot | Self::Multiboot2 | Self::Pvh => &[OperandWidth::Bits32],
            // boot.rst: kernels without XLF_KERNEL_64 have a 32-bit entry only.
            Self::Linux => &[OperandWidth::Bits64, OperandWidth::Bits32],
            Self::BootSector => &[OperandWidth::Bits16],
        }
    }
}

/// Writes the lower-case name.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Width of operands and addresses unless a prefix changes it (Intel SDM vol. 3, 3.4.5: the D and L flags of a code
/// segment).
///
/// Exhaustive: x86 has no other width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OperandWidth {
    /// 16 bits: real mode, virtual-8086 mode and 16-bit segments.
    Bits16,
    /// 32 bits: segments with the D flag.
    Bits32,
    /// 64 bits: segments with the L flag in long mode, where base and limit are ignored.
    Bits64,
}

impl OperandWidth {
    /// Returns the width in bits: 16, 32 or 64.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain protocols leave the mode to the caller. Each other one has its widths, and none has boot information without
    /// an entry of its own.
    #[test]
    fn the_questions_agree_with_each_other() {
        for protocol in Protocol::ALL {
            assert_eq!(protocol.is_plain(), protocol.entry_widths().len() == 3, "{protocol}");
            assert!(!(protocol.is_plain() && protocol.takes_boot_info()), "{protocol}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serialization_uses_the_names() {
        for protocol in Protocol::ALL {
            let text = serde_json::to_string(protocol).unwrap();
            assert_eq!(text, format!("\"{protocol}\""));
            assert_eq!(serde_json::from_str::<Protocol>(&text).unwrap(), *protocol);
        }
        // The error names all variants.
        let error = serde_json::from_str::<Protocol>("\"?\"").unwrap_err().to_string();
        let names: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        let listed: Vec<&str> = Protocol::ALL.iter().map(|protocol| protocol.name()).collect();
        assert_eq!(names, listed, "{error}");
    }
}
