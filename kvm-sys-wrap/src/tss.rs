//! Step 3: `KVM_SET_TSS_ADDR`, three scratch pages for Intel hosts.
//!
//! Intel CPUs without "unrestricted guest" cannot run real mode under VMX; KVM runs it as virtual-8086 code then, and
//! needs a task state segment and room around it in guest-physical space that the guest does not use (api.rst 4.36).
//! Hosts that do not need it accept the call all the same.
//!
//! The kernel checks only that the three pages end below 4 GiB. Overlaps with slots and devices are checked here: KVM would
//! write into guest memory.

use std::ops::Range;

use crate::address::{Gpa, PAGE_SIZE};
use crate::address_map::RangeOwner;
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, Result, TssAddressProblem, call_failed};

/// Size in bytes of the range for `KVM_SET_TSS_ADDR`: three pages.
pub const TSS_SIZE: u64 = 3 * PAGE_SIZE;
const FOUR_GIB: u64 = 1 << 32;

/// Checked address for `KVM_SET_TSS_ADDR`: a multiple of 4 KiB whose three pages end below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TssAddress(Gpa);

impl TssAddress {
    /// Checks that an address can be used for `KVM_SET_TSS_ADDR`.
    ///
    /// # Errors
    /// [`Error::TssAddress`] where the address is not a multiple of 4 KiB or the three pages do not end below 4 GiB. A range that
    /// ends at exactly 4 GiB is refused too: some hosts answer it with EINVAL.
    pub fn new(address: Gpa) -> Result<Self> {
        let problem = |problem| Err(Error::TssAddress { address, problem });
        if !address.is_aligned(PAGE_SIZE) {
            return problem(TssAddressProblem::Unaligned);
        }
        match address.checked_add(TSS_SIZE) {
            Some(end) if end.0 < FOUR_GIB => Ok(Self(address)),
            Some(_) | None => problem(TssAddressProblem::TooHigh),
        }
    }

    /// Returns the guest-physical range of the three pages.
    #[must_use]
    pub const fn range(self) -> Range<Gpa> {
        // No overflow: `new` keeps the end below 4 GiB.
        self.0..Gpa(self.0.0 + TSS_SIZE)
    }
}

impl Vm {
    /// Sets the three pages that Intel hosts use to run real mode (`KVM_SET_TSS_ADDR`, api.rst 4.36). They must not overlap a slot or
    /// a device. Makes no call if the kernel's VM has this address already: Intel hosts refuse a second one. Needs
    /// `KVM_CAP_SET_TSS_ADDR`.
    ///
    /// # Errors
    /// [`Error::Overlap`] where a slot or a device is there, [`Error::Call`] where the kernel refuses.
    pub fn set_tss_addr(&self, address: TssAddress) -> Result<()> {
        let mut table = self.lock_slots();
        let is_set = self.kernel().lock().tss_address == Some(address.0);
        let before = table.map.remove(&RangeOwner::TssPages);
        let result =
            table.map.insert(address.range(), RangeOwner::TssPages).map_err(Error::from).and_then(|()| {
                if is_set {
                    return Ok(());
                }
                // Below 4 GiB, so no bits are lost on any usize of x86-64.
                let offset = usize::try_from(address.0.0).unwrap_or(usize::MAX);
                self.dispatcher()
                    .call(Call::SetTssAddr, format_args!("{}", address.0), || {
                        self.fd()?.set_tss_address(offset)
                    })
                    .map_err(call_failed(Call::SetTssAddr, format!("address {}", address.0)))
            });
        if result.is_ok() {
            self.kernel().lock().tss_address = Some(address.0);
        } else {
            table.map.remove(&RangeOwner::TssPages);
            for (range, owner) in before {
                table.map.insert(range, owner)?;
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
