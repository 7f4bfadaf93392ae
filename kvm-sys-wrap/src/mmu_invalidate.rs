//! Invalidation of KVM's mapping of one page of guest memory, through its MMU notifier: `mprotect` to another protection and
//! back.
//!
//! The change invalidates what KVM has derived from the process's page tables (mm/mmu_notifier.c), so the guest's next access
//! to the page faults in the host, invisibly to the guest. Tests of KVM itself need such a fault at a chosen moment.

use std::io;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::address::{Gpa, PAGE_SIZE};
use crate::host_memory::GuestMemory;

/// Invalidates KVM's mapping of the page at `address` (`mprotect` twice). Does nothing where no slot is.
///
/// # Errors
/// The error of `mprotect`.
pub fn invalidate_page(memory: &GuestMemory, address: Gpa) -> io::Result<()> {
    let page = Gpa(address.0 & !(PAGE_SIZE - 1));
    let inside = |region: &vm_memory::GuestRegionMmap| {
        region.to_region_addr(page.into()).is_some() && region.len().is_multiple_of(PAGE_SIZE)
    };
    if !memory.find_region(page.into()).is_some_and(inside) {
        return Ok(());
    }
    let host = memory.get_host_address(page.into()).map_err(io::Error::other)?;
    // Executable and back: the page stays accessible to other threads of this process all the time.
    for protection in
        [libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, libc::PROT_READ | libc::PROT_WRITE]
    {
        // SAFETY: `host` is the first byte of a whole page (slots consist of whole pages and begin at one) inside a
        // mapping that `memory` keeps alive, and which was mapped readable and writable: no access that was allowed
        // before is refused at any moment.
        if unsafe { libc::mprotect(host.cast(), 4096, protection) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "mmap with MAP_NORESERVE")]
    fn the_page_keeps_its_contents_and_can_be_written() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0x1000), 0x2000)]).unwrap();
        memory.write_obj(0x55u8, GuestAddress(0x2fff)).unwrap();
        invalidate_page(&memory, Gpa(0x2abc)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x2fff)).unwrap(), 0x55);
        memory.write_obj(0x66u8, GuestAddress(0x2000)).unwrap();
        for nowhere in [Gpa(0), Gpa(0x3000), Gpa(u64::MAX)] {
            invalidate_page(&memory, nowhere).unwrap();
        }
    }
}
