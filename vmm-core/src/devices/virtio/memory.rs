//! Guest memory for a virtio device, by physical address (DMA).
//!
//! Memory that is read-only to the guest is read-only to its devices. vm-memory checks permissions for every access to rings and
//! buffers, so [`DmaMemory`] covers all accesses of virtio-queue.

use kvm_sys_wrap::GuestMemory;
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator};
use vm_memory::{GuestAddress, GuestMemoryBackend, Permissions};

use crate::spec::gpa_range::GpaRange;

/// Guest memory with read-only parts.
#[derive(Debug, Clone)]
pub(super) struct DmaMemory {
    memory: GuestMemory,
    read_only: Vec<GpaRange>,
}

impl DmaMemory {
    pub(super) fn new(memory: GuestMemory, read_only: &[GpaRange]) -> Self {
        Self { memory, read_only: read_only.to_vec() }
    }

    fn permits(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        match access {
            Permissions::No | Permissions::Read => true,
            Permissions::Write | Permissions::ReadWrite => {
                let size = u64::try_from(count).unwrap_or(u64::MAX);
                // An empty or invalid range is found by other checks.
                GpaRange::new(address.into(), size)
                    .is_none_or(|range| !self.read_only.iter().any(|region| region.overlaps(range)))
            }
        }
    }
}

impl vm_memory::GuestMemory for DmaMemory {
    type PhysicalMemory = GuestMemory;
    type Bitmap = ();

    fn check_range(&self, address: GuestAddress, count: usize, access: Permissions) -> bool {
        self.permits(address, count, access) && GuestMemoryBackend::check_range(&self.memory, address, count)
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>, Error> {
        if self.permits(address, count, access) {
            Ok(GuestMemoryBackend::get_slices(&self.memory, address, count))
        } else {
            Err(Error::InvalidGuestAddress(address))
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemory as _};

    use super::*;
    use crate::Gpa;

    #[test]
    fn read_only_memory_can_be_read_but_not_written() {
        let regions = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        let memory = GuestMemory::from_ranges(&regions).unwrap();
        let dma = DmaMemory::new(memory.clone(), &[GpaRange::new(Gpa(0x1000), 0x1000).unwrap()]);
        dma.write_slice(b"abc", GuestAddress(0xff0)).unwrap();
        dma.write_slice(b"abc", GuestAddress(0xffe)).unwrap_err();
        dma.store(7_u16, GuestAddress(0x1000), std::sync::atomic::Ordering::Relaxed).unwrap_err();
        let mut bytes = [0; 0x20];
        dma.read_slice(&mut bytes, GuestAddress(0xff0)).unwrap();
        assert_eq!(bytes, *b"abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert!(dma.check_range(GuestAddress(0), 0x1000, Permissions::Write));
        assert!(!dma.check_range(GuestAddress(0), 0x1001, Permissions::Write));
        assert!(dma.check_range(GuestAddress(0), 0x2000, Permissions::Read));
        assert!(!dma.check_range(GuestAddress(0), 0x2001, Permissions::Read));
        assert!(!dma.check_range(GuestAddress(u64::MAX), 2, Permissions::Write));
    }
}
