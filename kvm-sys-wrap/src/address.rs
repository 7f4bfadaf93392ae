//! Guest-physical addresses, guest-virtual addresses and I/O ports, as types that do not mix. No call is made here.

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
            /// Returns the address plus `offset`, or `None` on overflow.
            #[must_use]
            pub const fn checked_add(self, offset: $int) -> Option<Self> {
                match self.0.checked_add(offset) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Returns true if the address is a multiple of `alignment`, which must not be 0.
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
    /// Guest-physical address (GPA): the result of the guest's paging, before a memory slot is looked up.
    Gpa(u64)
}
address! {
    /// Guest-virtual address (GVA), called linear address in the SDM: the input of the guest's paging.
    Gva(u64)
}
address! {
    /// x86 I/O port, 0 to 0xffff.
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
