//! [`Guest`] for devices: a stopped vCPU and the machine's memory.

use std::io;

use kvm_sys_wrap::{Gpa, GuestMemory, Gva};
use vm_memory::{Bytes, GuestMemoryBackend};

use crate::cpu::exit_counts::ExitCounts;
use crate::devices::HostAddresses;
use crate::devices::device::{Guest, GuestMemoryAccess};
use crate::devices::kvm_testdev::PageMappings;
use crate::machine::processor::ServedVcpu;
use crate::paging::walk::ReadMemory;
use crate::spec::gpa_range::GpaRange;

/// Guest that a device accesses during one exit.
pub(crate) struct VcpuView<'a, V> {
    pub(crate) vcpu: &'a V,
    pub(crate) memory: &'a GuestMemory,
    /// Ranges that the guest cannot write. Devices must not write them for it.
    pub(crate) read_only: &'a [GpaRange],
    pub(crate) exits: &'a ExitCounts,
}

impl<V: ServedVcpu> GuestMemoryAccess for VcpuView<'_, V> {
    fn translate(&self, address: Gva) -> Option<Gpa> {
        // An error of the call is a host's trouble that the next KVM_RUN will meet as well; to the guest it is a wild
        // pointer.
        self.vcpu.translate(address).ok().flatten()
    }

    fn read_physical(&self, address: Gpa, data: &mut [u8]) -> Option<()> {
        self.memory.read_slice(data, address.into()).ok()
    }

    fn write_physical(&self, address: Gpa, data: &[u8]) -> Option<()> {
        let Some(range) = GpaRange::new(address, u64::try_from(data.len()).ok()?) else {
            return data.is_empty().then_some(());
        };
        let present = self.memory.check_range(address.into(), data.len());
        if !present || self.read_only.iter().any(|region| region.overlaps(range)) {
            return None;
        }
        self.memory.write_slice(data, address.into()).ok()
    }
}

impl<V: ServedVcpu> Guest for VcpuView<'_, V> {
    fn exits(&self) -> &ExitCounts {
        self.exits
    }

    fn vcpu(&self) -> usize {
        self.vcpu.number()
    }
}

/// Host addresses that the hypercall device shows.
impl HostAddresses for GuestMemory {
    fn host_address(&self, address: Gpa) -> Option<u64> {
        let pointer = self.get_host_address(address.into()).ok()?;
        u64::try_from(pointer.addr()).ok()
    }
}

/// Mappings that the test device of kvm-unit-tests invalidates.
impl PageMappings for GuestMemory {
    fn invalidate_page(&self, address: Gpa) -> io::Result<()> {
        kvm_sys_wrap::invalidate_page(self, address)
    }
}

/// Page walks read a machine's memory as it is.
impl ReadMemory for GuestMemory {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Option<()> {
        self.read_slice(bytes, gpa.into()).ok()
    }
}
