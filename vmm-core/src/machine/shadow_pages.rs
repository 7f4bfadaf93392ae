//! Shadow page tables: page tables that KVM derives from the guest's, and their invalidation.
//!
//! KVM sees the guest's writes to its page tables, but not those of a reset. So a reset deletes and creates each slot again,
//! which drops all shadow pages. That waits for all readers of the slots (SRCU), so it is done only if there are shadow pages:
//! KVM counts those that it makes.

use kvm_sys_wrap::{Stats, Vm};

use crate::machine::error::Error;
use crate::machine::host;
use crate::spec::MachineSpec;

/// Name of KVM's counter of shadow pages made so far.
const CREATED_STAT: &str = "mmu_cache_miss";

/// Shadow pages without content: one is made for the guest's top-level table in any case.
const TOP_LEVEL: u64 = 1;

/// Count of a VM's shadow pages.
#[derive(Debug, Default)]
pub(crate) struct ShadowPages {
    counters: Option<Stats>,
    /// Number that had been made when they were invalidated last.
    invalidated: u64,
}

impl ShadowPages {
    /// Drops all shadow pages, if there are any. Returns true if a CPU may still cache translations: not where there were no
    /// tables to cache from.
    pub(crate) fn invalidate(&mut self, vm: &Vm, spec: &MachineSpec) -> Result<bool, Error> {
        if !host::shadows_page_tables() {
            return Ok(true);
        }
        let created = self.created(vm);
        if created.is_some_and(|created| created.saturating_sub(self.invalidated) <= TOP_LEVEL) {
            return Ok(false);
        }
        for (number, _) in (0..).zip(&spec.memory) {
            vm.recreate_slot(number)?;
        }
        self.invalidated = created.unwrap_or(0);
        Ok(true)
    }

    /// `None` where the kernel does not count, or does not say.
    fn created(&mut self, vm: &Vm) -> Option<u64> {
        if self.counters.is_none() {
            self.counters = vm.stats().ok();
        }
        self.counters.as_ref()?.counter(CREATED_STAT).ok()?
    }
}
