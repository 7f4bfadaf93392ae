//! The guest's memory through its own eyes.
//!
//! Addresses are linear: virtual with the base of a segment added, as breakpoints and page tables take them. They are
//! walked here and not by KVM, which would set accessed bits in the guest's tables: looking must not change anything.

use vm_memory::Bytes;

use crate::Gva;
use crate::error::Error;
use crate::machine::Machine;
use crate::paging::walk::Translation;

const PAGE: u64 = 4096;

/// Where a linear address leads; `None` where nothing is mapped.
pub(super) fn walk(machine: &Machine, gva: Gva) -> Result<Option<Translation>, Error> {
    Ok(machine.walker()?.walk(&machine.memory, gva).translation())
}

/// Reads up to the first byte that is not there, and gives the number of those that are.
pub(super) fn read(machine: &Machine, start: Gva, data: &mut [u8]) -> Result<usize, Error> {
    each_page(machine, start, data.len(), |gpa, range| {
        let Some(piece) = data.get_mut(range) else { return false };
        machine.memory.read_slice(piece, gpa).is_ok()
    })
}

/// Writes up to the first byte that is not there, and gives the number of those that are. Read-only regions can be
/// written: it is the debugger who writes, not the guest.
pub(super) fn write(machine: &Machine, start: Gva, data: &[u8]) -> Result<usize, Error> {
    each_page(machine, start, data.len(), |gpa, range| {
        let Some(piece) = data.get(range) else { return false };
        machine.memory.write_slice(piece, gpa).is_ok()
    })
}

fn each_page(
    machine: &Machine,
    start: Gva,
    length: usize,
    mut access: impl FnMut(vm_memory::GuestAddress, std::ops::Range<usize>) -> bool,
) -> Result<usize, Error> {
    let walker = machine.walker()?;
    let mut done = 0;
    while done < length {
        let Some(gva) = u64::try_from(done).ok().and_then(|offset| start.checked_add(offset)) else { break };
        let Some(to) = walker.walk(&machine.memory, gva).translation() else { break };
        let in_page = usize::try_from(PAGE - gva.0 % PAGE).unwrap_or(1);
        let end = length.min(done.saturating_add(in_page));
        if !access(to.gpa.into(), done..end) {
            break;
        }
        done = end;
    }
    Ok(done)
}
