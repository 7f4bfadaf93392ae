//! Load plan: all effects of loading a file, as a value that can be checked, printed and compared.
//!
//! Only [`elf`](crate::elf), [`flat`](crate::flat) and [`boot`](crate::boot) create plans. They guarantee that each
//! segment's bytes are in the file, that no address range wraps, and that no two segments overlap. A plan does not contain
//! the bytes of the file.

use std::fmt;

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{DisplayRange, NamedRange, VirtAddr};
use crate::display::ByteSize;
use crate::elf_class::ElfClass;
use crate::relocation::Relocation;
use crate::segment::Segment;
use crate::symbols::{Symbol, SymbolTableError, Symbols};

/// Kind of the file that a plan was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageKind {
    /// ELF file linked to fixed addresses (ET_EXEC).
    Executable,
    /// Position-independent ELF file (ET_DYN) without a dynamic linker.
    StaticPie {
        /// Base address: the start of the lowest segment, rounded down to the alignment of the segments.
        base: GuestAddress,
    },
    /// Flat binary: bytes without a format.
    Flat,
    /// Bytes that a boot protocol puts into memory. Holds their name, such as `Linux kernel` or `module`.
    Raw(&'static str),
}

/// Note on a file that can be loaded, for its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanNote {
    /// Thread-local storage (PT_TLS) of this size in bytes, which the loader does not set up. On a bare machine, the guest
    /// itself has to set up the thread pointer.
    #[error("{} of thread-local storage (PT_TLS): the guest has to set it up itself", ByteSize(*.0))]
    ThreadLocalStorage(u64),
    /// Symbol table that cannot be read. The plan has no symbols.
    #[error("no symbols: {0}")]
    Symbols(SymbolTableError),
}

/// Plan for loading a file into guest memory: its segments, relocations, entry and symbols.
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
    /// Returns the ELF class of an ELF file, or `None` for other files.
    #[must_use]
    pub const fn class(&self) -> Option<ElfClass> {
        self.class
    }

    /// Returns the kind of the file: executable, static PIE, flat binary or raw bytes.
    #[must_use]
    pub const fn kind(&self) -> ImageKind {
        self.kind
    }

    /// Returns the size of the file in bytes.
    #[must_use]
    pub const fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Returns the segments in the order of the file. There is at least one.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the relocated words, which are written after the segments. Each one is in the file's part of a segment.
    #[must_use]
    pub fn relocations(&self) -> &[Relocation] {
        &self.relocations
    }

    /// Returns the entry of the file, if it has one. [`LoadPlan::resolve_entry`] checks that it is inside a segment.
    #[must_use]
    pub const fn entry(&self) -> Option<VirtAddr> {
        self.entry
    }

    /// Returns the symbols at their loaded addresses.
    #[must_use]
    pub const fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Returns notes on the file, for its author.
    #[must_use]
    pub fn notes(&self) -> &[PlanNote] {
        &self.notes
    }

    /// Returns the physical ranges that the file fills, with names for a memory map.
    #[must_use]
    pub fn ranges(&self) -> Vec<NamedRange> {
        self.segments.iter().map(|segment| self.named_range(segment)).collect()
    }

    /// Returns the physical range of a segment with a name that depends on the kind of the file.
    pub(crate) fn named_range(&self, segment: &Segment) -> NamedRange {
        match self.kind {
            ImageKind::Executable | ImageKind::StaticPie { .. } => segment.named_range(),
            ImageKind::Flat => NamedRange::new("flat binary", segment.phys_range()),
            ImageKind::Raw(name) => NamedRange::new(name, segment.phys_range()),
        }
    }

    /// Returns the segment that contains a virtual address: the first one in the file if overlays share the address.
    #[must_use]
    pub fn segment_at(&self, address: VirtAddr) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.offset_of(address).is_some())
    }

    /// Converts a virtual address to the physical address that it is loaded at, or returns `None` if no segment contains it.
    #[must_use]
    pub fn virt_to_phys(&self, address: VirtAddr) -> Option<GuestAddress> {
        let segment = self.segment_at(address)?;
        segment.phys.0.checked_add(segment.offset_of(address)?).map(GuestAddress)
    }

    /// Returns the symbol that covers an address, and the offset of the address from the symbol.
    ///
    /// `None` for an address outside all segments, or without a symbol in its segment.
    #[must_use]
    pub fn symbol_at(&self, address: VirtAddr) -> Option<(&Symbol, u64)> {
        let segment = self.segment_at(address)?;
        self.symbols.nearest(address).filter(|(symbol, _)| segment.offset_of(symbol.address).is_some())
    }
}

/// Writes a title line, a table of the segments, the notes, and the numbers of symbols and relocations.
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
    /// Writes one line for each segment, in aligned columns.
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
