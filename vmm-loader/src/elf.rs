//! ELF files (System V gABI, chapters 4 and 5; the i386 and x86-64 supplements): from bytes to a load plan.
//!
//! goblin knows how the records look; what they say is checked here and in the files of the five steps. Nothing
//! is allocated that is not in proportion to the file, and no input makes this panic.

use goblin::elf::program_header::PT_TLS;
use vm_memory::GuestAddress;

use crate::address::VirtAddr;
use crate::bytes::length;
use crate::elf::base::{BaseError, LoadBias};
use crate::elf::dynamic::DynamicSection;
use crate::elf::header::ElfHeaders;
use crate::error::LoadError;
use crate::plan::{ImageKind, LoadPlan, PlanNote};
use crate::segment::Segment;
use crate::symbols::Symbols;

pub(crate) mod base;
pub(crate) mod class;
pub(crate) mod dynamic;
pub(crate) mod header;
pub(crate) mod notes;
pub(crate) mod pt_load;
pub(crate) mod relocate;
pub(crate) mod symtab;

/// What the user decides about an ELF file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ElfOptions {
    /// Where the lowest segment of a static PIE goes; a multiple of the segments' alignment. `None`: where it was
    /// linked if that is 1 MiB or above, and otherwise the first aligned address from 1 MiB on.
    pub base: Option<GuestAddress>,
}

/// Plans how to load an ELF file.
///
/// # Errors
///
/// When the bytes are no ELF file, or one that cannot run on a bare x86 machine, or one that contradicts itself.
pub fn plan(file: &[u8], options: &ElfOptions) -> Result<LoadPlan, LoadError> {
    let headers = ElfHeaders::read(file)?;
    let linked = pt_load::read(file, &headers.program_headers, headers.class)?;
    let dynamic = DynamicSection::read(file, &headers, &linked)?;
    let (kind, bias) = place_image(&headers, &linked, options)?;
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

/// Decides how far the image moves.
fn place_image(
    headers: &ElfHeaders,
    linked: &[Segment],
    options: &ElfOptions,
) -> Result<(ImageKind, LoadBias), BaseError> {
    if headers.is_position_independent() {
        let bias = LoadBias::for_pie(linked, options.base)?;
        Ok((ImageKind::StaticPie { base: bias.base() }, bias))
    } else if options.base.is_some() {
        Err(BaseError::FixedAddresses)
    } else {
        Ok((ImageKind::Executable, LoadBias::NONE))
    }
}

/// The file's entry. 0 means "none" (gABI, `e_entry`), unless a file with fixed addresses has a segment there, as
/// 16-bit guests may. In a static PIE it is the ELF header that lies at 0.
fn entry(headers: &ElfHeaders, linked: &[Segment], bias: LoadBias) -> Option<VirtAddr> {
    let entry = VirtAddr(headers.header.e_entry);
    let at_zero = linked.iter().any(|segment| segment.offset_of(VirtAddr(0)).is_some());
    if entry.0 == 0 && (headers.is_position_independent() || !at_zero) {
        return None;
    }
    bias.apply(entry.0).map(VirtAddr)
}
