//! The load plan: all that loading a file will do, as a value that can be checked, printed and compared.
//!
//! [`elf`](crate::elf) and [`flat`](crate::flat) make plans; nothing else can, so whoever holds one knows that each
//! segment's bytes exist in the file, that no address range wraps, and that no two segments overlap. A plan has no
//! bytes in it: they are read from the file, or mapped from it, when the plan is carried out.

use std::fmt;

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{ByteSize, DisplayRange, NamedRange, VirtAddr};
use crate::elf::class::ElfClass;
use crate::elf::relocate::Relocation;
use crate::elf::symtab::SymbolTableError;
use crate::segment::Segment;
use crate::symbols::{Symbol, Symbols};

/// What kind of file a plan was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// An ELF file linked to fixed addresses (ET_EXEC).
    Executable,
    /// An ELF file that runs at any address (ET_DYN), and the one it was given.
    StaticPie {
        /// Where its lowest segment starts, rounded down to the alignment of the segments.
        base: GuestAddress,
    },
    /// Bytes without a format.
    Flat,
    /// Bytes that a boot protocol puts into memory, and what they are: `Linux kernel`, `module`.
    Raw(&'static str),
}

/// Something that does not keep a file from loading, but that its owner should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlanNote {
    /// PT_TLS: nobody sets up a thread pointer on a bare machine.
    #[error("{} of thread-local storage (PT_TLS): the guest has to set it up itself", ByteSize(*.0))]
    ThreadLocalStorage(u64),
    /// The file has a symbol table that cannot be read.
    #[error("no symbols: {0}")]
    Symbols(SymbolTableError),
}

/// All that loading a file will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadPlan {
    pub(crate) class: Option<ElfClass>,
    pub(crate) kind: ImageKind,
    pub(crate) file_size: u64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) relocations: Vec<Relocation>,
    pub(crate) entry: Option<VirtAddr>,
    pub(crate) symbols: Symbols,
    pub(crate) notes: Vec<PlanNote>,
}

impl LoadPlan {
    /// The class of an ELF file, or `None` for a flat binary.
    #[must_use]
    pub const fn class(&self) -> Option<ElfClass> {
        self.class
    }

    /// What kind of file it is.
    #[must_use]
    pub const fn kind(&self) -> ImageKind {
        self.kind
    }

    /// Size of the file in bytes.
    #[must_use]
    pub const fn file_size(&self) -> u64 {
        self.file_size
    }

    /// The segments, in the order of the file; at least one.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The words to write after the segments; each lies in the file's part of a segment.
    #[must_use]
    pub fn relocations(&self) -> &[Relocation] {
        &self.relocations
    }

    /// The entry that the file names, if it names one. It may be wrong: [`LoadPlan::resolve_entry`] checks it.
    #[must_use]
    pub const fn entry(&self) -> Option<VirtAddr> {
        self.entry
    }

    /// The symbols, at the addresses that the image runs at.
    #[must_use]
    pub const fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// What the file's owner should know.
    #[must_use]
    pub fn notes(&self) -> &[PlanNote] {
        &self.notes
    }

    /// The physical ranges that the file fills, with names for a memory map.
    #[must_use]
    pub fn ranges(&self) -> Vec<NamedRange> {
        self.segments.iter().map(|segment| self.named_range(segment)).collect()
    }

    /// A segment's range, under the name that suits the kind of file.
    pub(crate) fn named_range(&self, segment: &Segment) -> NamedRange {
        match self.kind {
            ImageKind::Executable | ImageKind::StaticPie { .. } => segment.named_range(),
            ImageKind::Flat => NamedRange { name: "flat binary".to_owned(), range: segment.phys_range() },
            ImageKind::Raw(what) => NamedRange { name: what.to_owned(), range: segment.phys_range() },
        }
    }

    /// The segment that a virtual address is in; the first in the file where overlays share addresses.
    #[must_use]
    pub fn segment_at(&self, address: VirtAddr) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.offset_of(address).is_some())
    }

    /// Where in physical memory the byte at a virtual address is loaded, or `None` where the file has none there.
    #[must_use]
    pub fn virt_to_phys(&self, address: VirtAddr) -> Option<GuestAddress> {
        let segment = self.segment_at(address)?;
        segment.phys.0.checked_add(segment.offset_of(address)?).map(GuestAddress)
    }

    /// The symbol that an address belongs to, and how far it is into it; only for addresses in the file's segments.
    #[must_use]
    pub fn symbol_at(&self, address: VirtAddr) -> Option<(&Symbol, u64)> {
        let segment = self.segment_at(address)?;
        self.symbols.nearest(address).filter(|(symbol, _)| segment.offset_of(symbol.address).is_some())
    }
}

/// A title line, a table of the segments, the notes, and how many symbols and relocations there are.
impl fmt::Display for LoadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(class) = self.class {
            write!(f, "{class} ")?;
        }
        match self.kind {
            ImageKind::Executable => write!(f, "executable")?,
            ImageKind::StaticPie { base } => write!(f, "static PIE at {:#x}", base.0)?,
            ImageKind::Flat => write!(f, "flat binary")?,
            ImageKind::Raw(what) => f.write_str(what)?,
        }
        match self.entry {
            Some(entry) => write!(f, ", entry {entry}")?,
            None if matches!(self.kind, ImageKind::Raw(_)) => {}
            None => write!(f, ", no entry")?,
        }
        match self.entry.and_then(|entry| self.symbol_at(entry)) {
            Some((symbol, 0)) => write!(f, " <{}>", symbol.name)?,
            Some((symbol, offset)) => write!(f, " <{}+{offset:#x}>", symbol.name)?,
            None => {}
        }
        self.write_table(f)?;
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        if matches!(self.kind, ImageKind::Raw(_)) {
            return Ok(());
        }
        let count = |number: usize, of: &str| format!("{number} {of}{}", if number == 1 { "" } else { "s" });
        let (symbols, relocations) = (self.symbols.len(), self.relocations.len());
        write!(f, "\n  {}, {}", count(symbols, "symbol"), count(relocations, "relocation"))
    }
}

impl LoadPlan {
    fn write_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = ["segment", "access", "physical", "virtual", "in memory", "from file", "at offset"];
        let mut rows = vec![title.map(str::to_owned)];
        rows.extend(self.segments.iter().map(|segment| {
            [
                segment.index.to_string(),
                segment.flags.to_string(),
                DisplayRange(&segment.phys_range()).to_string(),
                segment.virt.to_string(),
                ByteSize(segment.mem_size).to_string(),
                ByteSize(segment.file_size).to_string(),
                format!("{:#x}", segment.file_offset),
            ]
        }));
        let mut widths = [0; 7];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            write!(f, "\n  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}
