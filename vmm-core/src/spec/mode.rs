//! CPU modes that a vCPU can start in, operand widths, privilege rings and page sizes.
//!
//! Their bits in control registers and descriptors are in [`crate::cpu`].

use std::fmt;

use serde::Deserialize;

pub use vmm_loader::OperandWidth;

/// CPU mode of the vCPU when it executes the guest's first instruction (SDM vol. 3, 2.2 and figure 2-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// 16-bit real-address mode: no protection, no paging, the lowest 1 MiB.
    Real,
    /// 32-bit protected mode with flat segments and no paging.
    Protected,
    /// 32-bit protected mode with two-level paging (4 KiB pages, or 4 MiB with CR4.PSE).
    Paged,
    /// 32-bit protected mode with three-level paging (CR4.PAE; 4 KiB or 2 MiB pages).
    Pae,
    /// 64-bit long mode with four-level paging, or five-level with CR4.LA57.
    Long,
}

impl Mode {
    /// All modes, in the order in which CPUs gained them.
    pub const ALL: [Self; 5] = [Self::Real, Self::Protected, Self::Paged, Self::Pae, Self::Long];

    /// Returns the name of the mode in configuration files and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Protected => "protected",
            Self::Paged => "paged",
            Self::Pae => "pae",
            Self::Long => "long",
        }
    }

    /// Returns the operand width of the mode's code.
    #[must_use]
    pub const fn operand_width(self) -> OperandWidth {
        match self {
            Self::Real => OperandWidth::Bits16,
            Self::Protected | Self::Paged | Self::Pae => OperandWidth::Bits32,
            Self::Long => OperandWidth::Bits64,
        }
    }

    /// Returns the mode in which a boot protocol enters code of this width: 16-bit code in real mode, 32-bit code without
    /// paging, 64-bit code in long mode.
    #[must_use]
    pub const fn from_entry_width(width: OperandWidth) -> Self {
        match width {
            OperandWidth::Bits16 => Self::Real,
            OperandWidth::Bits32 => Self::Protected,
            OperandWidth::Bits64 => Self::Long,
        }
    }

    /// Returns the width of the mode's code and registers in bits: 16, 32 or 64.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.operand_width().bits()
    }

    /// Returns true if CR0.PE is set: segments come from descriptors, and there are rings.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        !matches!(self.operand_width(), OperandWidth::Bits16)
    }

    /// Returns true if EFER.LMA is set: 64-bit code, and paging with four or five levels.
    #[must_use]
    pub const fn is_long(self) -> bool {
        matches!(self.operand_width(), OperandWidth::Bits64)
    }

    /// Returns true if CR0.PG is set.
    #[must_use]
    pub const fn has_paging(self) -> bool {
        !self.page_sizes().is_empty()
    }

    /// Returns the end of the linear addresses from 0 up that code can use: 1 MiB in real mode, 4 GiB in 32-bit code, and in
    /// 64-bit code the lower half of the canonical addresses with four-level paging.
    #[must_use]
    pub const fn address_limit(self) -> u64 {
        match self.operand_width() {
            OperandWidth::Bits16 => 1 << 20,
            OperandWidth::Bits32 => 1 << 32,
            OperandWidth::Bits64 => 1 << 47,
        }
    }

    /// Returns the page sizes that can map memory in this mode, smallest first; empty without paging.
    #[must_use]
    pub const fn page_sizes(self) -> &'static [PageSize] {
        match self {
            Self::Real | Self::Protected => &[],
            Self::Paged => &[PageSize::Size4K, PageSize::Size4M],
            Self::Pae => &[PageSize::Size4K, PageSize::Size2M],
            Self::Long => &[PageSize::Size4K, PageSize::Size2M, PageSize::Size1G],
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Current privilege level (CPL) of the guest at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Ring {
    /// Ring 0, in which all instructions can be executed.
    #[default]
    Kernel,
    /// Ring 3: privileged instructions fault, pages need the U/S bit, and ports need the TSS bitmap.
    User,
}

impl Ring {
    /// Returns the privilege level as a number: 0 or 3.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::Kernel => 0,
            Self::User => 3,
        }
    }
}

/// Size of a page that one table entry maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageSize {
    /// Page of 4 KiB, in every paging mode.
    Size4K,
    /// Page of 2 MiB, in PAE and long mode.
    Size2M,
    /// Page of 4 MiB, in two-level paging with CR4.PSE.
    Size4M,
    /// Page of 1 GiB, in long mode, if CPUID 0x8000_0001 EDX bit 26 is set.
    Size1G,
}

impl PageSize {
    /// Returns the size of the page in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 4 << 10,
            Self::Size2M => 2 << 20,
            Self::Size4M => 4 << 20,
            Self::Size1G => 1 << 30,
        }
    }

    /// Returns the name of the page size in configuration files and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size4K => "4KiB",
            Self::Size2M => "2MiB",
            Self::Size4M => "4MiB",
            Self::Size1G => "1GiB",
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::Error;

    use super::*;

    #[test]
    fn the_list_has_every_mode_by_the_name_of_its_serialization() {
        // The error names all variants.
        let error: Error = Mode::deserialize("?".into_deserializer()).unwrap_err();
        let error = error.to_string();
        let names: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(names, Mode::ALL.map(Mode::name), "{error}");
    }
}
