//! Page walk: translation of one virtual address through page tables in guest memory, level by level.
//!
//! The tables may come from the guest. The walk stops at the first error that would stop the CPU, and records every step.
//! It reads through [`ReadMemory`]: the memory of a running guest, a snapshot, or the images of a machine that is not built.
//!
//! It does not set accessed and dirty bits and has no TLB: a CPU may still use an earlier entry. A PAE CPU also caches its
//! four directory pointers when CR3 is loaded (SDM vol. 3, 4.4.1).

use std::fmt;

use kvm_sys_wrap::bindings::kvm_sregs;

use super::entry::{EntryRules, PageTableEntry, is_pae_root};
use super::{Level, Scheme};
use crate::cpu::control_regs::{Cr4, Efer};
use crate::spec::PagePermissions;
use crate::spec::mode::PageSize;
use crate::{Gpa, Gva};

/// Guest memory that can be read by guest-physical address.
pub trait ReadMemory {
    /// Fills `bytes` from guest memory at `gpa`; `None` if part of that is not memory.
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Option<()>;

    /// Reads a table entry of 4 or 8 bytes; `None` if it is not in memory.
    fn read_entry(&self, gpa: Gpa, scheme: Scheme) -> Option<PageTableEntry> {
        let mut bytes = [0; 8];
        match scheme {
            Scheme::TwoLevel => self.read(gpa, bytes.first_chunk_mut::<4>()?)?,
            Scheme::Pae | Scheme::FourLevel | Scheme::FiveLevel => self.read(gpa, &mut bytes)?,
        }
        Some(PageTableEntry(u64::from_le_bytes(bytes)))
    }
}

/// Page walker: translates virtual addresses as a CPU in a given state does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walker {
    /// Paging scheme of the CPU; `None` without paging.
    pub scheme: Option<Scheme>,
    /// Guest-physical address of the root table, from CR3.
    pub root: Gpa,
    /// CR4.PSE: true if two-level paging has 4 MiB pages.
    pub large_pages: bool,
    /// EFER.NXE: true if the XD bit is not reserved.
    pub execute_disable: bool,
    /// Width of a physical address in bits, at most 52. KVM assumes 36 for a guest without CPUID.
    pub physical_bits: u32,
    /// True for an AMD CPU, which reserves bit 8 in PML5 and PML4 entries.
    pub amd: bool,
}

/// Step of a page walk: an entry that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkStep {
    /// Paging scheme that the walk uses.
    pub scheme: Scheme,
    /// Level of the table that the entry is in.
    pub level: &'static Level,
    /// Index of the entry in its table.
    pub index: u64,
    /// Guest-physical address of the entry.
    pub at: Gpa,
    /// Page table entry that was read.
    pub entry: PageTableEntry,
    /// Size of the page that the entry maps; `None` if it does not map a page.
    pub leaf: Option<PageSize>,
}

/// Translation of a virtual address: its physical address, page size and permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address that the virtual address is translated to.
    pub gpa: Gpa,
    /// Size of the page; `None` without paging.
    pub size: Option<PageSize>,
    /// Permissions of the page, those of all levels together. Unless CR0.WP is set, ring 0 may also write to read-only pages.
    pub access: PagePermissions,
}

/// Result of a page walk: a translation, or the reason why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkEnd {
    /// The virtual address is translated.
    Mapped(Translation),
    /// An entry has the P bit clear: #PF.
    NotPresent,
    /// An entry has these reserved bits set: #PF with the RSVD bit.
    Reserved(u64),
    /// The table at this address is not in memory.
    NoMemory(Gpa),
    /// The virtual address cannot be translated: it is not canonical (#GP), or has more than 32 bits.
    Unaddressable,
}

/// Page walk of one virtual address: all entries that were read, and the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// Virtual address that was translated.
    pub gva: Gva,
    /// Steps of the walk: the entries that were read, from the root down.
    pub steps: Vec<WalkStep>,
    /// Result of the walk: a translation, or the reason why there is none.
    pub end: WalkEnd,
}

impl Walk {
    /// Returns the translation that the walk found; `None` if it failed.
    #[must_use]
    pub const fn translation(&self) -> Option<Translation> {
        match self.end {
            WalkEnd::Mapped(translation) => Some(translation),
            WalkEnd::NotPresent | WalkEnd::Reserved(_) | WalkEnd::NoMemory(_) | WalkEnd::Unaddressable => {
                None
            }
        }
    }
}

impl Walker {
    /// Returns a walker for a vCPU with the given registers, with physical addresses of 52 bits on an Intel CPU.
    #[must_use]
    pub const fn from_sregs(sregs: &kvm_sregs) -> Self {
        let scheme = Scheme::from_sregs(sregs);
        Self {
            scheme,
            root: match scheme {
                // The PAE root needs a multiple of 32 only; the others a page (SDM vol. 3, tables 4-3, 4-7, 4-12).
                Some(Scheme::Pae) => Gpa(sregs.cr3 & 0xffff_ffe0),
                Some(Scheme::TwoLevel) => Gpa(sregs.cr3 & 0xffff_f000),
                Some(Scheme::FourLevel | Scheme::FiveLevel) | None => {
                    PageTableEntry(sregs.cr3).table_address()
                }
            },
            large_pages: Cr4::from_bits_retain(sregs.cr4).contains(Cr4::PSE),
            execute_disable: Efer::from_bits_retain(sregs.efer).contains(Efer::NXE),
            physical_bits: 52,
            amd: false,
        }
    }

    /// Translates a virtual address, and records every step.
    #[must_use]
    pub fn walk(&self, memory: &(impl ReadMemory + ?Sized), gva: Gva) -> Walk {
        let mut steps = Vec::new();
        let end = match self.scheme {
            Some(scheme) if scheme.can_address(gva) => self.descend(scheme, memory, gva, &mut steps),
            Some(_) => WalkEnd::Unaddressable,
            None => {
                let access = PagePermissions { writable: true, user: true, executable: true };
                WalkEnd::Mapped(Translation { gpa: Gpa(gva.0), size: None, access })
            }
        };
        Walk { gva, steps, end }
    }

    fn descend(
        &self,
        scheme: Scheme,
        memory: &(impl ReadMemory + ?Sized),
        gva: Gva,
        steps: &mut Vec<WalkStep>,
    ) -> WalkEnd {
        let mut table = self.root;
        let mut access = PagePermissions { writable: true, user: true, executable: true };
        for level in scheme.levels() {
            let index = level.index(gva);
            let at = Gpa(table.0 + index * scheme.entry_bytes());
            let Some(entry) = memory.read_entry(at, scheme) else { return WalkEnd::NoMemory(at) };
            let step = self.step(scheme, level, index, at, entry);
            steps.push(step);
            if let Err(end) = self.check(&step) {
                return end;
            }
            access = step.narrow(access, self.execute_disable);
            if let Some(size) = step.leaf {
                let offset = gva.0 & (size.bytes() - 1);
                let gpa = Gpa(entry.page_address(size).0 | offset);
                return WalkEnd::Mapped(Translation { gpa, size: Some(size), access });
            }
            table = entry.table_address();
        }
        // Not reached: every entry of the last level maps a page.
        WalkEnd::NotPresent
    }

    /// Returns the step for an entry at its level.
    pub(super) const fn step(
        &self,
        scheme: Scheme,
        level: &'static Level,
        index: u64,
        at: Gpa,
        entry: PageTableEntry,
    ) -> WalkStep {
        let leaf = entry.leaf(scheme, level, self.large_pages);
        WalkStep { scheme, level, index, at, entry, leaf }
    }

    /// Checks that the CPU can use the entry.
    pub(super) const fn check(&self, step: &WalkStep) -> Result<(), WalkEnd> {
        if !step.entry.is_present() {
            return Err(WalkEnd::NotPresent);
        }
        let WalkStep { scheme, level, leaf, .. } = *step;
        let Self { execute_disable, physical_bits, amd, .. } = *self;
        let rules = EntryRules { execute_disable, physical_bits, amd };
        match step.entry.reserved_bits(scheme, level, leaf, rules) {
            0 => Ok(()),
            bits => Err(WalkEnd::Reserved(bits)),
        }
    }
}

impl WalkStep {
    /// Returns the permissions below this entry: each level can only remove some (SDM vol. 3, 4.6).
    #[must_use]
    pub(super) const fn narrow(&self, above: PagePermissions, execute_disable: bool) -> PagePermissions {
        use super::entry::EntryFlags;
        let flags = self.entry.flags();
        // The PAE root has no permission bits.
        let silent = is_pae_root(self.scheme, self.level);
        PagePermissions {
            writable: above.writable && (silent || flags.contains(EntryFlags::RW)),
            user: above.user && (silent || flags.contains(EntryFlags::US)),
            executable: above.executable && !(execute_disable && flags.contains(EntryFlags::XD)),
        }
    }
}

/// Returns the permissions of a page as text: `rwx` as in `ls`, then the rings that have access.
#[must_use]
pub fn describe_permissions(access: PagePermissions) -> String {
    let letter = |yes, letter| if yes { letter } else { '-' };
    let ring = if access.user { "user" } else { "supervisor" };
    format!("r{}{} {ring}", letter(access.writable, 'w'), letter(access.executable, 'x'))
}

impl fmt::Display for WalkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}] at {}: {:#x}", self.level.name, self.index, self.at, self.entry.0)?;
        if !self.entry.is_present() {
            return Ok(());
        }
        match self.leaf {
            Some(size) => write!(f, ", {size} page at {}", self.entry.page_address(size))?,
            None => write!(f, ", table at {}", self.entry.table_address())?,
        }
        write!(f, ", {}", self.entry.flags())
    }
}

impl fmt::Display for WalkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped(to) => write!(f, "physical {}, {}", to.gpa, describe_permissions(to.access)),
            Self::NotPresent => f.write_str("not present"),
            Self::Reserved(bits) => write!(f, "reserved bits {bits:#x} are set"),
            Self::NoMemory(at) => write!(f, "no memory at {at}"),
            Self::Unaddressable => f.write_str("not an address of this mode"),
        }
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "{}: {}", self.gva, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::table_image::TableImage;

    /// Tables of 8-byte entries: address of the table, index, entry.
    fn memory(entries: &[(u64, usize, u64)]) -> Vec<TableImage> {
        let tables = [0x1000, 0x2000, 0x3000, 0x4000];
        let bytes = |table: u64| {
            let mut words = [0u64; 512];
            for (_, index, entry) in entries.iter().filter(|(at, ..)| *at == table) {
                words[*index] = *entry;
            }
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        tables.map(|at| TableImage { gpa: Gpa(at), name: "table", bytes: bytes(at) }).into()
    }

    fn walker(execute_disable: bool) -> Walker {
        let scheme = Some(Scheme::FourLevel);
        let root = Gpa(0x1000);
        Walker { scheme, root, large_pages: false, execute_disable, physical_bits: 40, amd: false }
    }

    const XD: u64 = 1 << 63;

    #[test]
    fn each_level_can_only_take_away() {
        let memory = memory(&[
            (0x1000, 511, 0x2007),
            (0x2000, 510, XD | 0x3007),
            (0x3000, 0, 0x4003),
            (0x4000, 1, 0x9065),
        ]);
        let walk = walker(true).walk(memory.as_slice(), Gva(0xffff_ffff_8000_1234));
        assert_eq!(
            walk.to_string(),
            "PML4[511] at 0x1ff8: 0x2007, table at 0x2000, P RW US\n\
             PDPT[510] at 0x2ff0: 0x8000000000003007, table at 0x3000, P RW US XD\n\
             PD[0] at 0x3000: 0x4003, table at 0x4000, P RW\n\
             PT[1] at 0x4008: 0x9065, 4KiB page at 0x9000, P US A D\n\
             0xffffffff80001234: physical 0x9234, r-- supervisor"
        );
    }

    #[test]
    fn why_a_walk_ends() {
        let memory = memory(&[
            (0x1000, 0, 0x2007),
            (0x2000, 1, 0x3007),
            (0x2000, 2, 0x8000_0000 | 0x2087),
            (0x2000, 3, 0x7007),
            (0x2000, 4, XD | 0x87),
            (0x2000, 5, 1 << 40 | 0x87),
        ]);
        let end = |gva: u64, nxe| walker(nxe).walk(memory.as_slice(), Gva(gva)).end;
        let gib = |number: u64| number << 30;
        assert_eq!(end(gib(0), true), WalkEnd::NotPresent);
        assert_eq!(end(gib(1), true), WalkEnd::NotPresent);
        assert_eq!(end(gib(2), true), WalkEnd::Reserved(0x2000));
        assert_eq!(end(gib(3), true), WalkEnd::NoMemory(Gpa(0x7000)));
        assert_eq!(end(gib(4), false), WalkEnd::Reserved(XD));
        assert!(matches!(end(gib(4), true), WalkEnd::Mapped(to) if !to.access.executable));
        assert_eq!(end(gib(5), true), WalkEnd::Reserved(1 << 40));
        assert_eq!(end(1 << 47, true), WalkEnd::Unaddressable);
    }

    #[test]
    fn without_paging_an_address_is_itself() {
        let off = Walker { scheme: None, ..walker(true) };
        let to = off.walk([].as_slice(), Gva(0x1234)).translation().unwrap();
        assert_eq!((to.gpa, to.size), (Gpa(0x1234), None));
    }
}
