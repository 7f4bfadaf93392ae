//! Step 3: `KVM_SET_TSS_ADDR`, three scratch pages for Intel hosts.
//!
//! Intel CPUs without "unrestricted guest" cannot run real mode under VMX; KVM runs it as virtual-8086 code then, and
//! needs a task state segment and room around it in guest-physical space that the guest does not use (api.rst 4.36).
//! Hosts that do not need it accept the call all the same.
//!
//! The kernel checks only that the three pages end below 4 GiB. That no slot and no device lies on them is on us: an
//! overlap would let KVM write into guest memory.

use std::ops::Range;

use crate::address::Gpa;
use crate::address_map::RangeOwner;
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};

const PAGE: u64 = 4096;
/// How many bytes the kernel takes: three pages.
pub const TSS_SIZE: u64 = 3 * PAGE;
const FOUR_GIB: u64 = 1 << 32;

/// A checked address for `KVM_SET_TSS_ADDR`: page-aligned, with its three pages below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TssAddress(Gpa);

impl TssAddress {
    /// Checks an address.
    ///
    /// # Errors
    /// [`Error::TssAddress`] where it is not a multiple of 4 KiB or its pages do not end below 4 GiB. A range that
    /// ends at exactly 4 GiB is refused too: some hosts answer it with EINVAL.
    pub fn new(address: Gpa) -> Result<Self> {
        let problem = |problem| Err(Error::TssAddress { address, problem });
        if !address.is_aligned(PAGE) {
            return problem("is not a multiple of 4 KiB");
        }
        match address.checked_add(TSS_SIZE) {
            Some(end) if end.0 < FOUR_GIB => Ok(Self(address)),
            Some(_) | None => problem("does not leave room for three pages below 4 GiB"),
        }
    }

    /// The three pages.
    #[must_use]
    pub const fn range(self) -> Range<Gpa> {
        // No overflow: `new` keeps the end below 4 GiB.
        self.0..Gpa(self.0.0 + TSS_SIZE)
    }
}

impl Vm {
    /// Gives the three pages to the kernel.
    ///
    /// # Errors
    /// [`Error::Overlap`] where a slot or a device is there, [`Error::Call`] where the kernel refuses.
    pub fn set_tss_addr(&self, address: TssAddress) -> Result<()> {
        let mut memory = self.lock_memory();
        let before = memory.map.remove(&RangeOwner::TssPages);
        let result =
            memory.map.insert(address.range(), RangeOwner::TssPages).map_err(Error::from).and_then(|()| {
                // Below 4 GiB, so no bits are lost on any usize of x86-64.
                let offset = usize::try_from(address.0.0).unwrap_or(usize::MAX);
                self.observed()
                    .call(Call::SetTssAddr, format_args!("{}", address.0), || {
                        self.fd().set_tss_address(offset)
                    })
                    .map_err(call_failed(Call::SetTssAddr, format!("address {}", address.0)))
            });
        if result.is_err() {
            memory.map.remove(&RangeOwner::TssPages);
            for (range, occupant) in before {
                memory.map.insert(range, occupant)?;
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        assert!(TssAddress::new(Gpa(0xfffb_d000)).is_ok());
        assert!(TssAddress::new(Gpa(0xffff_c000)).is_ok());
        let message = |address| TssAddress::new(Gpa(address)).unwrap_err().to_string();
        assert_eq!(message(0xfffb_d010), "the TSS address 0xfffbd010 is not a multiple of 4 KiB");
        let high = "does not leave room for three pages below 4 GiB";
        assert_eq!(message(0xffff_d000), format!("the TSS address 0xffffd000 {high}"));
        assert_eq!(message(0x1_0000_0000), format!("the TSS address 0x100000000 {high}"));
        assert_eq!(message(u64::MAX - 0xfff), format!("the TSS address 0xfffffffffffff000 {high}"));
    }
}
