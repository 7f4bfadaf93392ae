//! Making the host forget how it maps a page of guest memory: `mprotect` there and back.
//!
//! A change of protection invalidates what KVM has derived from the process's page tables (mm/mmu_notifier.c), so the
//! guest's next access to the page takes a fault in the host. The guest notices nothing. This is for tests of KVM itself,
//! which want such a fault at a moment of their choice.

use std::io;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::address::Gpa;
use crate::memory::GuestMemory;

const PAGE: u64 = 4096;

/// Makes the host forget its mapping of the page at `address`. Where no memory is, nothing happens.
///
/// # Errors
/// That of `mprotect`.
pub fn invalidate_page(memory: &GuestMemory, address: Gpa) -> io::Result<()> {
    let page = Gpa(address.0 & !(PAGE - 1));
    let inside = |region: &vm_memory::GuestRegionMmap| {
        region.to_region_addr(page.into()).is_some() && region.len().is_multiple_of(PAGE)
    };
    if !memory.find_region(page.into()).is_some_and(inside) {
        return Ok(());
    }
    let host = memory.get_host_address(page.into()).map_err(io::Error::other)?;
    // Executable and back: at no moment the page is closed to other threads of this process, which may be using it.
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
    fn what_is_in_the_page_stays_and_it_can_be_written() {
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
