//! ELF files (System V gABI, chapters 4 and 5, with the i386 and x86-64 supplements): from bytes to a load plan.
//!
//! goblin decodes the records. This module and the five steps below check their values. Memory use is proportional to
//! the size of the file, and no input causes a panic.
//!
//! | file | step |
//! |---|---|
//! | `elf/header.rs` | ELF header and program header table |
//! | `elf/pt_load.rs` | PT_LOAD headers to segments |
//! | `elf/dynamic.rs`, `elf/base.rs` | dynamic section; base address of a static PIE |
//! | `elf/relocate.rs` | relative relocations |
//! | `elf/symtab.rs` | symbol table |
//!
//! `elf/notes.rs` reads ELF notes for [`boot`](crate::boot) and for [`config_note`](crate::config_note).

use goblin::elf::program_header::PT_TLS;
use vm_memory::GuestAddress;

use crate::address::VirtAddr;
use crate::bytes::length;
use crate::elf::base::{BaseError, LoadBias};
use crate::elf::dynamic::DynamicSection;
use crate::elf::error::ElfError;
use crate::elf::header::ElfHeaders;
use crate::plan::{ImageKind, LoadPlan, PlanNote};
use crate::segment::Segment;
use crate::symbols::Symbols;

pub(crate) mod base;
pub(crate) mod dynamic;
pub(crate) mod error;
pub(crate) mod header;
pub(crate) mod notes;
pub(crate) mod pt_load;
pub(crate) mod relocate;
pub(crate) mod symtab;

/// Options for loading an ELF file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElfOptions {
    /// Base address of a static PIE: the physical address of its lowest segment, a multiple of the largest `p_align`.
    ///
    /// `None` keeps the linked address if it is [`DEFAULT_PIE_BASE`](crate::DEFAULT_PIE_BASE) (1 MiB) or higher, and
    /// otherwise selects the first aligned address from there on.
    pub base: Option<GuestAddress>,
}

impl ElfOptions {
    /// Sets the base address of a static PIE; `None` selects the default.
    #[must_use]
    pub fn with_base(mut self, base: impl Into<Option<GuestAddress>>) -> Self {
        self.base = base.into();
        self
    }
}

/// Plans how to load an ELF file.
///
/// # Errors
///
/// [`ElfError`] if the file is not an ELF file, cannot run on a bare x86 machine, or contradicts itself.
pub fn plan(file: &[u8], options: &ElfOptions) -> Result<LoadPlan, ElfError> {
    let headers = ElfHeaders::read(file)?;
    let linked = pt_load::read(file, &headers.program_headers, headers.class)?;
    let dynamic = DynamicSection::read(file, &headers, &linked)?;
    let (kind, bias) = load_bias(&headers, &linked, options)?;
    let segments: Vec<Segment> =
        linked.iter().map(|segment| segment.biased(bias, headers.class)).collect::<Result<_, _>>()?;
    let relocations = relocate::read(file, headers.class, &linked, &dynamic, bias)?;

    let mut notes = Vec::new();
    if let Some(tls) = headers.program_headers.iter().find(|header| header.p_type == PT_TLS) {
        notes.push(PlanNote::ThreadLocalStorage(tls.p_memsz));
    }
    let symbols = symtab::read(file, &headers, bias).unwrap_or_else(|error| {
        notes.push(PlanNote::Symbols(error));
        Symbols::default()
    });
    Ok(LoadPlan {
        class: Some(headers.class),
        kind,
        file_size: length(file.len()),
        entry: entry(&headers, &linked, bias),
        segments,
        relocations,
        symbols,
        notes,
    })
}

/// Determines the kind of the image and its load bias.
fn load_bias(
    headers: &ElfHeaders,
    linked: &[Segment],
    options: &ElfOptions,
) -> Result<(ImageKind, LoadBias), BaseError> {
    if headers.is_position_independent() {
        let bias = LoadBias::from_base(linked, options.base)?;
        Ok((ImageKind::StaticPie { base: bias.base() }, bias))
    } else if options.base.is_some() {
        Err(BaseError::FixedAddresses)
    } else {
        Ok((ImageKind::Executable, LoadBias::NONE))
    }
}

/// Returns the file's entry after the load bias.
///
/// 0 means "no entry" (gABI, `e_entry`) unless an ET_EXEC file has a segment at 0, as 16-bit guests may. In a static PIE
/// the ELF header is at 0.
fn entry(headers: &ElfHeaders, linked: &[Segment], bias: LoadBias) -> Option<VirtAddr> {
    let entry = VirtAddr(headers.header.e_entry);
    let at_zero = linked.iter().any(|segment| segment.offset_of(VirtAddr(0)).is_some());
    if entry.0 == 0 && (headers.is_position_independent() || !at_zero) {
        return None;
    }
    bias.apply(entry.0).map(VirtAddr)
}
