//! Step 5 of an ELF file: reading the symbol table, by way of the section headers.
//!
//! Sections are a linker's view of the file; the symbol table is all that is read of it. Of the two tables that a file
//! can have, `.symtab` has all names; `.dynsym` is what `strip` leaves. See gABI, "Sections" and "Symbol Table".

use goblin::elf::section_header::{SHN_ABS, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, SectionHeader};
use goblin::elf::sym::{STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, Sym};
use thiserror::Error;

use crate::address::VirtAddr;
use crate::bytes::{c_string, length, slice};
use crate::elf::base::LoadBias;
use crate::elf::header::ElfHeaders;
use crate::symbols::{Symbol, SymbolKind, Symbols};

/// Names longer than this are left out.
const MAX_NAME_LENGTH: usize = 4096;

/// Why there are no symbols although the file has a table for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SymbolTableError {
    /// The section header table is not inside the file, or its entries have another size than the class wants.
    #[error("the section header table is damaged")]
    Sections,
    /// The symbol table is not inside the file.
    #[error("the symbol table is outside the file")]
    Table,
    /// The table's names are not inside the file.
    #[error("the string table of the symbols is outside the file")]
    Names,
    /// The names, put one after the other, are many times larger than the file.
    #[error("the symbols' names are larger than the file")]
    TooLarge,
}

/// Reads the symbols of an image moved by `slide`; an empty list where the file has no table.
pub(crate) fn read(file: &[u8], headers: &ElfHeaders, bias: LoadBias) -> Result<Symbols, SymbolTableError> {
    let sections = sections(file, headers)?;
    let of_type = |wanted| sections.iter().find(|section| section.sh_type == wanted);
    let Some(table) = of_type(SHT_SYMTAB).or_else(|| of_type(SHT_DYNSYM)) else {
        return Ok(Symbols::default());
    };
    let context = headers.class.context();
    let bytes = slice(file, table.sh_offset, table.sh_size).ok_or(SymbolTableError::Table)?;
    let count = bytes.len() / Sym::size(context.container);
    let entries = Sym::parse(bytes, 0, count, context).map_err(|_| SymbolTableError::Table)?;
    let names = usize::try_from(table.sh_link)
        .ok()
        .and_then(|index| sections.get(index))
        .and_then(|section| slice(file, section.sh_offset, section.sh_size))
        .ok_or(SymbolTableError::Names)?;

    // Names may share their ends, so together they can be a little larger than their table, but not much.
    let mut budget = file.len().saturating_mul(4);
    let mut symbols = Vec::new();
    for entry in &entries {
        let Some(symbol) = symbol(entry, names, bias) else { continue };
        budget = budget.checked_sub(symbol.name.len()).ok_or(SymbolTableError::TooLarge)?;
        symbols.push(symbol);
    }
    Ok(Symbols::new(symbols))
}

pub(crate) fn sections(file: &[u8], headers: &ElfHeaders) -> Result<Vec<SectionHeader>, SymbolTableError> {
    let header = &headers.header;
    let (count, context) = (usize::from(header.e_shnum), headers.class.context());
    if count == 0 || header.e_shoff == 0 {
        return Ok(Vec::new());
    }
    let entry_size = SectionHeader::size(context);
    if usize::from(header.e_shentsize) != entry_size {
        return Err(SymbolTableError::Sections);
    }
    let table = slice(file, header.e_shoff, length(count * entry_size)).ok_or(SymbolTableError::Sections)?;
    SectionHeader::parse_from(table, 0, count, context).map_err(|_| SymbolTableError::Sections)
}

/// One entry, or `None` for those that name no place: undefined ones, files, sections, thread-local variables.
fn symbol(entry: &Sym, names: &[u8], bias: LoadBias) -> Option<Symbol> {
    let absolute = u32::try_from(entry.st_shndx) == Ok(SHN_ABS);
    let kind = match entry.st_type() {
        STT_FUNC | STT_GNU_IFUNC | STT_OBJECT | STT_NOTYPE if absolute => SymbolKind::Absolute,
        STT_FUNC | STT_GNU_IFUNC => SymbolKind::Function,
        STT_OBJECT => SymbolKind::Object,
        STT_NOTYPE => SymbolKind::Label,
        _ => return None,
    };
    if u32::try_from(entry.st_shndx) == Ok(SHN_UNDEF) {
        return None;
    }
    let name = str::from_utf8(c_string(names, length(entry.st_name), MAX_NAME_LENGTH)?).ok()?;
    // Names are printed, and a terminal obeys control characters.
    if name.is_empty() || name.contains(char::is_control) {
        return None;
    }
    let address = if absolute { entry.st_value } else { bias.apply(entry.st_value)? };
    Some(Symbol {
        name: name.to_owned(),
        address: VirtAddr(address),
        size: entry.st_size,
        kind,
        global: entry.st_bind() != STB_LOCAL,
    })
}
