//! Where a static PIE goes: the base address, and the slide from where it was linked to where it runs.
//!
//! Only ET_DYN files can move. A file of type ET_EXEC gets [`LoadBias::NONE`] and a base given for it is an error.

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::segment::Segment;

/// The lowest base chosen by default: 1 MiB. Below it lies what PCs have always kept for themselves (vectors, video
/// memory, BIOS), and what a VMM puts there: descriptor tables, page tables, the first stack.
pub const DEFAULT_BASE: GuestAddress = GuestAddress(1 << 20);

/// Why a file cannot go to the base asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BaseError {
    /// A base for a file that is linked to fixed addresses.
    #[error("a base address is given, but the file is linked to run at fixed addresses (ET_EXEC)")]
    FixedAddresses,
    /// The base breaks the alignment that the segments want.
    #[error("the base {:#x} is not a multiple of {align:#x}, the alignment of the file's segments", .base.0)]
    Misaligned {
        /// The base asked for.
        base: GuestAddress,
        /// The largest `p_align`.
        align: u64,
    },
    /// There is no aligned address above the default base.
    #[error("no address is a multiple of {align:#x}, the alignment of the file's segments")]
    Alignment {
        /// The largest `p_align`.
        align: u64,
    },
}

impl BaseError {
    /// What the user can do about it.
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

/// How far an image moves: what was linked at `from` goes to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadBias {
    from: u64,
    to: u64,
}

impl LoadBias {
    /// The image stays where it was linked.
    pub(crate) const NONE: Self = Self { from: 0, to: 0 };

    /// The slide of a static PIE: the start of its lowest segment, rounded down to the alignment, goes to `base`.
    ///
    /// Without a `base` an image linked at or above [`DEFAULT_BASE`] stays there, since somebody chose that address,
    /// and any other goes to the first address from [`DEFAULT_BASE`] on that its alignment allows.
    pub(crate) fn for_pie(segments: &[Segment], base: Option<GuestAddress>) -> Result<Self, BaseError> {
        let align = segments.iter().map(|segment| segment.align).max().unwrap_or(1);
        let lowest = segments.iter().map(|segment| segment.phys.0).min().unwrap_or(0);
        let from = lowest - lowest % align;
        let to = match base {
            Some(base) if base.0.is_multiple_of(align) => base.0,
            Some(base) => return Err(BaseError::Misaligned { base, align }),
            None if from >= DEFAULT_BASE.0 => from,
            None => DEFAULT_BASE.0.checked_next_multiple_of(align).ok_or(BaseError::Alignment { align })?,
        };
        Ok(Self { from, to })
    }

    /// Where the image starts after the slide.
    pub(crate) const fn base(self) -> GuestAddress {
        GuestAddress(self.to)
    }

    /// Where `address` ends up, or `None` where that is no address.
    pub(crate) const fn apply(self, address: u64) -> Option<u64> {
        if address >= self.from {
            self.to.checked_add(address - self.from)
        } else {
            self.to.checked_sub(self.from - address)
        }
    }

    /// What a relative relocation adds, modulo 2^64 (System V ABI, "Relocation": B).
    pub(crate) const fn bias(self) -> u64 {
        self.to.wrapping_sub(self.from)
    }
}
