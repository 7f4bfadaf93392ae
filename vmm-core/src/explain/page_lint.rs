//! Lints for page tables: mappings with dangerous permissions, aliases, and mappings of unused addresses.
//!
//! None is an error: a guest may want each, and an identity mapping has the first. But a guest with an unexpected page
//! fault or memory change often has one of them. The tables may be the guest's own, and the addresses of kernel structures
//! come from the vCPU's registers, since a guest may have moved them.

use std::fmt;

use kvm_sys_wrap::bindings::kvm_sregs;

use crate::layout::{Layout, LayoutPart, RangeOwner};
use crate::paging::merge::{BrokenEntry, MappedRange, Mappings};
use crate::paging::walk::{ReadMemory, WalkEnd, Walker};
use crate::spec::gpa_range::{ByteSize, GpaRange};
use crate::{Gva, PAGE_SIZE};

/// Range that only ring 0 should be able to access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelStructure {
    /// Name of the structure, such as `GDT`.
    pub name: &'static str,
    /// Guest-physical range of the structure.
    pub range: GpaRange,
}

/// Suspicious mapping in page tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageLint {
    /// A range of virtual addresses is both writable and executable.
    WritableExecutable(MappedRange),
    /// Ring 3 can read a kernel structure.
    UserVisible {
        /// Kernel structure that ring 3 can read.
        kernel: KernelStructure,
        /// Virtual address at which ring 3 can read the structure.
        gva: Gva,
        /// True if ring 3 can write the kernel structure.
        writable: bool,
    },
    /// A guest-physical range is mapped at two virtual addresses.
    Alias {
        /// Guest-physical range that is mapped twice.
        physical: GpaRange,
        /// Lower one of the two virtual addresses.
        first: Gva,
        /// Higher one of the two virtual addresses.
        second: Gva,
        /// True if the range is writable through one of the addresses and executable through the other.
        writable_and_executable: bool,
    },
    /// A mapping refers to guest-physical addresses without memory or a device.
    MapsNothing {
        /// First virtual address of the mapping.
        gva: Gva,
        /// Guest-physical range that the mapping refers to.
        physical: GpaRange,
    },
    /// A page table entry has reserved bits, or refers to a table that is not in memory.
    Broken(BrokenEntry),
}

impl PageLint {
    /// Returns a short, stable name of the lint for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::WritableExecutable(_) => "writable-executable",
            Self::UserVisible { .. } => "user-visible",
            Self::Alias { .. } => "alias",
            Self::MapsNothing { .. } => "nothing-there",
            Self::Broken(BrokenEntry { why: WalkEnd::Reserved(_), .. }) => "reserved-bits",
            Self::Broken(_) => "table-not-in-memory",
        }
    }

    /// Returns the first virtual address of the suspicious mapping.
    #[must_use]
    pub const fn gva(&self) -> Gva {
        match self {
            Self::WritableExecutable(range) => range.gva,
            Self::UserVisible { gva, .. } | Self::MapsNothing { gva, .. } => *gva,
            Self::Alias { first, .. } => *first,
            Self::Broken(broken) => broken.gva,
        }
    }
}

/// Returns all suspicious mappings of page tables, in the order of [`PageLint`]. `populated` holds the ranges of memory and
/// devices.
#[must_use]
pub fn lint(mappings: &Mappings, populated: &[GpaRange], kernel: &[KernelStructure]) -> Vec<PageLint> {
    let mut populated = populated.to_vec();
    populated.sort();
    let ranges = &mappings.ranges;
    let mut findings = Vec::new();
    let both = ranges.iter().filter(|range| range.access.writable && range.access.executable);
    findings.extend(both.copied().map(PageLint::WritableExecutable));
    findings.extend(ranges.iter().flat_map(|range| user_visible(range, kernel)));
    findings.extend(aliases(ranges));
    findings.extend(ranges.iter().flat_map(|range| unpopulated_pages(range, &populated)));
    findings.extend(mappings.broken.iter().copied().map(PageLint::Broken));
    findings
}

fn user_visible(range: &MappedRange, kernel: &[KernelStructure]) -> Vec<PageLint> {
    let Some(physical) = range.physical().filter(|_| range.access.user) else { return Vec::new() };
    let seen = kernel.iter().filter_map(|kernel| Some((kernel, kernel.range.intersection(physical)?)));
    seen.map(|(kernel, seen)| PageLint::UserVisible {
        kernel: *kernel,
        gva: range.gva_of(seen.start()),
        writable: range.access.writable,
    })
    .collect()
}

/// Compares each range with the lower range that ends last. That finds every physical address that is mapped more than
/// once, with one lint for each further mapping.
fn aliases(ranges: &[MappedRange]) -> Vec<PageLint> {
    let mut sorted: Vec<(GpaRange, &MappedRange)> =
        ranges.iter().filter_map(|range| Some((range.physical()?, range))).collect();
    sorted.sort_by_key(|(physical, range)| (*physical, range.gva));
    let mut found = Vec::new();
    let mut furthest: Option<(GpaRange, &MappedRange)> = None;
    for (physical, range) in sorted {
        if let Some((below, other)) = furthest
            && let Some(shared) = below.intersection(physical)
        {
            let (one, two) = (other.gva_of(shared.start()), range.gva_of(shared.start()));
            let (a, b) = (other.access, range.access);
            // A range that is both by itself has a lint of its own.
            let by_one = (a.writable && a.executable) || (b.writable && b.executable);
            let by_two = (a.writable && b.executable) || (b.writable && a.executable);
            found.push(PageLint::Alias {
                physical: shared,
                first: one.min(two),
                second: one.max(two),
                writable_and_executable: by_two && !by_one,
            });
        }
        if furthest.is_none_or(|(below, _)| below.end() < physical.end()) {
            furthest = Some((physical, range));
        }
    }
    found
}

fn unpopulated_pages(range: &MappedRange, populated: &[GpaRange]) -> Vec<PageLint> {
    let holes = range.physical().map(|physical| physical.without(populated)).unwrap_or_default();
    holes
        .into_iter()
        .map(|hole| PageLint::MapsNothing { gva: range.gva_of(hole.start()), physical: hole })
        .collect()
}

/// Returns the kernel structures of a vCPU that can be found: its page tables, and the descriptor tables and the TSS that
/// its registers point to.
#[must_use]
pub fn kernel_structures(
    mappings: &Mappings,
    walker: &Walker,
    sregs: &kvm_sregs,
    layout: &Layout,
    memory: &(impl ReadMemory + ?Sized),
) -> Vec<KernelStructure> {
    let mut found: Vec<KernelStructure> = Vec::new();
    let structures = [
        ("GDT", sregs.gdt.base, u64::from(sregs.gdt.limit)),
        ("IDT", sregs.idt.base, u64::from(sregs.idt.limit)),
        ("TSS", sregs.tr.base, u64::from(sregs.tr.limit)),
    ];
    for (name, base, limit) in structures {
        // Limits are at most 64 KiB except that of the TSS, whose first 64 KiB suffice.
        let end = base.saturating_add(limit.min(0xffff));
        let mut at = base;
        while limit > 0 && at <= end {
            let last = (at | 0xfff).min(end);
            if let Some(to) = walker.walk(memory, Gva(at)).translation() {
                let range = GpaRange::new(to.gpa, (last - at).saturating_add(1));
                found.extend(range.map(|range| KernelStructure { name, range }));
            }
            let Some(next) = last.checked_add(1) else { break };
            at = next;
        }
    }
    let mut tables = mappings.tables.clone();
    // A PAE root is smaller than a page and need not be page-aligned.
    for table in &mut tables {
        table.0 &= !0xfff;
    }
    tables.sort_unstable();
    tables.dedup();
    let pages = tables.into_iter().filter_map(|table| GpaRange::new(table, PAGE_SIZE));
    let mut joined: Vec<GpaRange> = Vec::new();
    for page in pages {
        match joined.last_mut().filter(|last| last.end() == page.start()) {
            Some(last) => *last = GpaRange::between(last.start(), page.end()).unwrap_or(*last),
            None => joined.push(page),
        }
    }
    found.extend(joined.into_iter().map(|range| KernelStructure { name: "page tables", range }));
    let parts = layout.ranges().iter().filter_map(|placed| match placed.owner {
        RangeOwner::Part(part @ (LayoutPart::TrapPage | LayoutPart::KernelStack)) => {
            Some(KernelStructure { name: part.name(), range: placed.range })
        }
        RangeOwner::Part(
            LayoutPart::Gdt | LayoutPart::Idt | LayoutPart::Tss | LayoutPart::PageTables | LayoutPart::Stack,
        )
        | RangeOwner::Memory(_)
        | RangeOwner::TssPages
        | RangeOwner::IdentityMap
        | RangeOwner::Device(_)
        | RangeOwner::Guest(_)
        | RangeOwner::Firmware(_) => None,
    });
    found.extend(parts);
    found
}

impl fmt::Display for PageLint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WritableExecutable(range) => {
                write!(f, "{} is writable and executable ({})", range.addresses(), ByteSize(range.bytes()))
            }
            Self::UserVisible { kernel, gva, writable } => {
                let can = if *writable { "write" } else { "read" };
                write!(f, "ring 3 can {can} the {} at {gva} (physical {})", kernel.name, kernel.range)
            }
            Self::Alias { physical, first, second, writable_and_executable } => {
                write!(f, "physical {physical} is mapped at {first} and at {second}")?;
                let split = ", writable through one and executable through the other";
                f.write_str(if *writable_and_executable { split } else { "" })
            }
            Self::MapsNothing { gva, physical } => {
                let size = ByteSize(physical.size());
                write!(
                    f,
                    "{gva} is mapped to physical {physical}, where neither memory nor a device is ({size})"
                )
            }
            Self::Broken(BrokenEntry { gva, table, at, why }) => match why {
                WalkEnd::Reserved(bits) => {
                    write!(
                        f,
                        "the {table} entry at {at}, for {gva} and above, has the reserved bits {bits:#x} set"
                    )
                }
                WalkEnd::NoMemory(_) | WalkEnd::Mapped(_) | WalkEnd::NotPresent | WalkEnd::Unaddressable => {
                    write!(f, "the {table} for {gva} and above should lie at {at}, where no memory is")
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gpa;
    use crate::spec::PagePermissions;
    use crate::spec::mode::PageSize;

    fn mapped(gva: u64, gpa: u64, count: u64, letters: &str) -> MappedRange {
        let has = |letter| letters.contains(letter);
        let access = PagePermissions { writable: has('w'), user: has('u'), executable: has('x') };
        MappedRange { gva: Gva(gva), gpa: Gpa(gpa), size: PageSize::Size4K, count, access }
    }

    fn span(start: u64, end: u64) -> GpaRange {
        GpaRange::between(Gpa(start), Gpa(end)).unwrap()
    }

    fn found(ranges: &[MappedRange], kernel: &[KernelStructure]) -> Vec<String> {
        let mappings = Mappings { ranges: ranges.to_vec(), ..Mappings::default() };
        lint(&mappings, &[span(0, 0x8000)], kernel).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tidy_tables_have_no_findings() {
        let kernel = [KernelStructure { name: "GDT", range: span(0x4000, 0x4040) }];
        let ranges = [mapped(0, 0, 2, "x"), mapped(0x2000, 0x2000, 2, "wu"), mapped(0x9000, 0x4000, 1, "w")];
        assert_eq!(found(&ranges, &kernel), [""; 0]);
    }

    #[test]
    fn each_kind_is_found() {
        let kernel = [KernelStructure { name: "GDT", range: span(0x1800, 0x1840) }];
        let ranges = [
            mapped(0x10_0000, 0x1000, 2, "wu"),
            mapped(0x20_0000, 0x2000, 7, "x"),
            mapped(0x30_0000, 0, 1, "wx"),
        ];
        assert_eq!(
            found(&ranges, &kernel),
            [
                "0x300000-0x300fff is writable and executable (4 KiB)",
                "ring 3 can write the GDT at 0x100800 (physical 0x1800..0x1840)",
                "physical 0x2000..0x3000 is mapped at 0x101000 and at 0x200000, \
                 writable through one and executable through the other",
                "0x206000 is mapped to physical 0x8000..0x9000, where neither memory nor a device is (4 KiB)",
            ]
        );
    }

    #[test]
    fn every_further_mapping_of_a_page_is_an_alias_once() {
        let ranges: Vec<_> = (1..=4).map(|number| mapped(number << 20, 0x1000, 1, "")).collect();
        let lines = found(&ranges, &[]);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "physical 0x1000..0x2000 is mapped at 0x100000 and at 0x400000");
        // Inside a larger range, after another.
        let ranges = [mapped(0, 0, 8, ""), mapped(0x9000, 0x1000, 1, ""), mapped(0xa000, 0x5000, 2, "")];
        assert_eq!(found(&ranges, &[]).len(), 2);
    }
}
