//! Pages added to the tables that the boot code made: one on demand, one to be read only, one for the local APIC.
//!
//! They all lie in the second GiB, which the boot code leaves empty, so one directory and one table hold them: 512
//! pages of 4 KiB (Intel SDM vol. 3, 4.5). Tables and pages lie in the kernel, in memory mapped at its own address.

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The start of the second GiB.
const WINDOW: usize = 1 << 30;
const PAGE: usize = 4096;

/// Not mapped until it is touched.
pub(crate) const DEMAND: usize = WINDOW + 0x18;
/// Mapped by [`map_read_only`], writable after the first write.
pub(crate) const READ_ONLY: usize = WINDOW + PAGE;
/// The registers of the local APIC, after [`map_apic`].
pub(crate) const APIC: usize = WINDOW + 2 * PAGE;

/// Bits of an entry.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const CACHE_DISABLE: u64 = 1 << 4;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A table of 512 entries, or a page that is used as memory.
#[repr(align(4096))]
struct Table([AtomicU64; 512]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    fn address(&'static self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

static DIRECTORY: Table = Table::new();
static TABLE: Table = Table::new();
static DEMAND_PAGE: Table = Table::new();
static READ_ONLY_PAGE: Table = Table::new();

/// Mends a page fault if it is one of those made on purpose; says whether it was.
pub(crate) fn mend(address: u64, error: u64) -> bool {
    let page = address as usize & !(PAGE - 1);
    if page == DEMAND & !(PAGE - 1) && error & PRESENT == 0 {
        map(page, DEMAND_PAGE.address() | WRITABLE);
        true
    } else if page == READ_ONLY && error & PRESENT != 0 {
        map(page, READ_ONLY_PAGE.address() | WRITABLE);
        true
    } else {
        false
    }
}

/// Maps a page that may be read.
pub(crate) fn map_read_only() {
    map(READ_ONLY, READ_ONLY_PAGE.address());
}

/// Maps the registers of the local APIC, which lie at the physical address `base`. Not cached: they are not memory.
pub(crate) fn map_apic(base: u64) {
    map(APIC, base | WRITABLE | CACHE_DISABLE);
}

/// Writes the entry of a page in the window, and makes the CPU forget what it knew of it.
fn map(page: usize, entry: u64) {
    let cr3: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags)) };
    let pdpt = entry_of(cr3, 0).load(Relaxed);
    entry_of(pdpt, 1).store(DIRECTORY.address() | WRITABLE | PRESENT, Relaxed);
    entry_of(DIRECTORY.address(), 0).store(TABLE.address() | WRITABLE | PRESENT, Relaxed);
    entry_of(TABLE.address(), (page - WINDOW) / PAGE).store(entry | PRESENT, Relaxed);
    // SAFETY: the translation that is forgotten is looked up again in the tables.
    unsafe { asm!("invlpg [{}]", in(reg) page, options(nostack, preserves_flags)) };
}

/// An entry of the table that `parent`, an entry or CR3, points to.
fn entry_of(parent: u64, index: usize) -> &'static AtomicU64 {
    assert!(index < 512);
    let table = with_exposed_provenance_mut::<AtomicU64>((parent & ADDRESS) as usize);
    let entry = table.wrapping_add(index);
    // SAFETY: the boot code's tables and ours lie in the first GiB, at their own addresses, and live as long as the
    // kernel. The CPU too writes to entries (accessed, dirty), one at a time: hence atomics.
    unsafe { &*entry }
}
