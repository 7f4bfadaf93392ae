//! The three kinds of address that a VMM handles, as types that do not mix.
//!
//! Nothing here calls KVM. A bare `u64` never crosses a module border where one of these fits.

use std::fmt;

use vm_memory::GuestAddress;

/// Size in bytes of the smallest page of x86, and the unit of KVM's memory slots.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// The address `offset` further up, or `None` where that leaves the address space.
            #[must_use]
            pub const fn checked_add(self, offset: $int) -> Option<Self> {
                match self.0.checked_add(offset) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `alignment` (any number but 0).
            #[must_use]
            pub const fn is_aligned(self, alignment: $int) -> bool {
                self.0.is_multiple_of(alignment)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address! {
    /// A guest-physical address (GPA): what the guest's memory bus sees, before any slot is looked up.
    Gpa(u64)
}
address! {
    /// A guest-virtual address (GVA), called linear address in the SDM: what paging translates.
    Gva(u64)
}
address! {
    /// An x86 I/O port, 0 to 0xffff.
    Port(u16)
}

impl From<Gpa> for GuestAddress {
    fn from(gpa: Gpa) -> Self {
        Self(gpa.0)
    }
}

impl From<GuestAddress> for Gpa {
    fn from(address: GuestAddress) -> Self {
        Self(address.0)
    }
}
