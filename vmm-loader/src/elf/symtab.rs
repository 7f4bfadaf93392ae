//! Step 5 of an ELF file: the symbol table (gABI, "Sections" and "Symbol Table").
//!
//! Reads `.symtab`, which has all names, or else `.dynsym`, which `strip` does not remove.

use goblin::elf::section_header::{SHN_ABS, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, SectionHeader};
use goblin::elf::sym::{STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, Sym};

use crate::address::VirtAddr;
use crate::bytes::{c_string, length, slice};
use crate::elf::base::LoadBias;
use crate::elf::header::ElfHeaders;
use crate::symbols::{Symbol, SymbolKind, SymbolTableError, Symbols};

/// Maximum length in bytes of a symbol name. Symbols with longer names are skipped.
const MAX_NAME_LENGTH: usize = 4096;

/// Reads the symbols of an image with the given load bias. Returns an empty list if the file has no symbol table.
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

    // Names may share their tails, so together they can be somewhat larger than the string table.
    let mut budget = file.len().saturating_mul(4);
    let mut symbols = Vec::new();
    for entry in &entries {
        let Some(symbol) = symbol(entry, names, bias) else { continue };
        budget = budget.checked_sub(symbol.name.len()).ok_or(SymbolTableError::TooLarge)?;
        symbols.push(symbol);
    }
    Ok(Symbols::new(symbols))
}

/// Reads the section header table. Returns an empty list if the file has none.
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

/// Converts a symbol table entry. Returns `None` for entries without an address: undefined symbols, files, sections and
/// thread-local variables.
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
    // Names are printed, and control characters can change a terminal's state.
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
