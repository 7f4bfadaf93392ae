//! Base address of a static PIE, and the load bias from its linked to its loaded address.
//!
//! Only ET_DYN files can move. An ET_EXEC file has [`LoadBias::NONE`], and a base given for it is an error.

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::segment::Segment;

/// Lowest base address that is chosen by default: 1 MiB.
///
/// Memory below 1 MiB holds the real-mode vectors, video memory and the BIOS of a PC, and often the descriptor tables,
/// page tables and first stack that a VMM provides.
pub const DEFAULT_PIE_BASE: GuestAddress = GuestAddress(1 << 20);

/// Base address that the file cannot be loaded at.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BaseError {
    /// Base address for an ET_EXEC file, which is linked to fixed addresses.
    #[error("a base address is given, but the file is linked to run at fixed addresses (ET_EXEC)")]
    FixedAddresses,
    /// Base address that is not a multiple of the segments' alignment.
    #[error("the base {:#x} is not a multiple of {align:#x}, the alignment of the file's segments", .base.0)]
    Misaligned {
        /// Base address that was requested.
        base: GuestAddress,
        /// Largest alignment of the segments (`p_align`).
        align: u64,
    },
    /// Alignment so large that no multiple of it lies above the default base.
    #[error("no address is a multiple of {align:#x}, the alignment of the file's segments")]
    Alignment {
        /// Largest alignment of the segments (`p_align`).
        align: u64,
    },
}

impl BaseError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::FixedAddresses => {
                Some("leave the base out, or link the guest with `-static-pie`".to_owned())
            }
            Self::Misaligned { base, align } => {
                let below = base.0 - base.0 % (*align).max(1);
                let above = below.checked_add(*align);
                Some(match (below, above) {
                    (0, Some(above)) => format!("the nearest such address is {above:#x}"),
                    (below, Some(above)) => {
                        format!("the nearest such addresses are {below:#x} and {above:#x}")
                    }
                    (below, None) => format!("the nearest such address is {below:#x}"),
                })
            }
            Self::Alignment { .. } => Some("link the guest with a smaller `-z max-page-size`".to_owned()),
        }
    }
}

/// Load bias of an image: the address linked at `linked_base` is loaded at `load_base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadBias {
    linked_base: u64,
    load_base: u64,
}

impl LoadBias {
    /// Bias of an image that is loaded where it was linked.
    pub(crate) const NONE: Self = Self { linked_base: 0, load_base: 0 };

    /// Computes the bias of a static PIE: the start of its lowest segment, rounded down to the alignment, goes to `base`.
    ///
    /// Without a `base`, an image linked at or above [`DEFAULT_PIE_BASE`] stays there, since that address was chosen on
    /// purpose. Any other image goes to the first aligned address from [`DEFAULT_PIE_BASE`] on.
    pub(crate) fn from_base(segments: &[Segment], base: Option<GuestAddress>) -> Result<Self, BaseError> {
        let align = segments.iter().map(|segment| segment.align).max().unwrap_or(1);
        let lowest = segments.iter().map(|segment| segment.phys.0).min().unwrap_or(0);
        let linked_base = lowest - lowest % align;
        let load_base = match base {
            Some(base) if base.0.is_multiple_of(align) => base.0,
            Some(base) => return Err(BaseError::Misaligned { base, align }),
            None if linked_base >= DEFAULT_PIE_BASE.0 => linked_base,
            None => {
                DEFAULT_PIE_BASE.0.checked_next_multiple_of(align).ok_or(BaseError::Alignment { align })?
            }
        };
        Ok(Self { linked_base, load_base })
    }

    /// Returns the address that the image is loaded at.
    pub(crate) const fn base(self) -> GuestAddress {
        GuestAddress(self.load_base)
    }

    /// Converts a linked address to a loaded address, or returns `None` on overflow.
    pub(crate) const fn apply(self, address: u64) -> Option<u64> {
        if address >= self.linked_base {
            self.load_base.checked_add(address - self.linked_base)
        } else {
            self.load_base.checked_sub(self.linked_base - address)
        }
    }

    /// Returns the addend of a relative relocation, modulo 2^64 (System V ABI, "Relocation": B).
    pub(crate) const fn addend(self) -> u64 {
        self.load_base.wrapping_sub(self.linked_base)
    }
}
