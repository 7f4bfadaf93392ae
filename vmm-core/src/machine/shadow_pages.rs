//! Page tables of KVM's own that shadow the guest's, and making KVM forget them.
//!
//! KVM learns of changes to the guest's tables from the guest's writes. What a reset writes it does not see, so whatever it
//! has derived from them has to go: each slot is taken out and put in again. That waits for all who look at the slots
//! (SRCU), so it is done only if there is something to forget: KVM counts the shadow pages that it makes.

use kvm_sys_wrap::{Stats, Vm};

use crate::machine::error::Error;
use crate::machine::host;
use crate::spec::MachineSpec;

/// The kernel's name for the number of shadow pages made so far.
const MADE: &str = "mmu_cache_miss";

/// One shadow page is made for the guest's topmost table, whether the guest's code uses it or KVM interprets all. With
/// nothing under it, it holds nothing.
const TOP: u64 = 1;

/// What is known of a VM's shadow pages.
#[derive(Debug, Default)]
pub(crate) struct ShadowPages {
    counters: Option<Stats>,
    /// How many had been made when KVM forgot them last.
    forgotten: u64,
}

impl ShadowPages {
    /// Makes KVM forget them, if there are any. Returns whether a CPU may still keep translations of its own: not where
    /// there was nothing that it could have come to them by.
    pub(crate) fn forget(&mut self, vm: &Vm, spec: &MachineSpec) -> Result<bool, Error> {
        if !host::shadows_page_tables() {
            return Ok(true);
        }
        let made = self.made(vm);
        if made.is_some_and(|made| made.saturating_sub(self.forgotten) <= TOP) {
            return Ok(false);
        }
        for (number, _) in (0..).zip(&spec.memory) {
            vm.recreate_slot(number)?;
        }
        self.forgotten = made.unwrap_or(0);
        Ok(true)
    }

    /// `None` where the kernel does not count, or does not say.
    fn made(&mut self, vm: &Vm) -> Option<u64> {
        if self.counters.is_none() {
            self.counters = vm.stats().ok();
        }
        self.counters.as_ref()?.counter(MADE).ok()?
    }
}
