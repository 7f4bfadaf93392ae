//! Step 3 of an ELF file: the dynamic section (gABI, "Dynamic Section").
//!
//! A bare machine has no dynamic linker, so a file with an interpreter or a needed library is refused. A static PIE has
//! relative relocations only, which `elf/relocate.rs` applies.

use goblin::elf::dynamic::{
    DF_1_PIE, DT_FLAGS_1, DT_JMPREL, DT_NEEDED, DT_NULL, DT_PLTREL, DT_PLTRELSZ, DT_REL, DT_RELA, DT_RELAENT,
    DT_RELASZ, DT_RELENT, DT_RELSZ, DT_SONAME, DT_STRSZ, DT_STRTAB, Dynamic as DynamicTable,
};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, ProgramHeader};
use thiserror::Error;

use crate::address::VirtAddr;
use crate::bytes::{c_string, length, slice};
use crate::display::ByteSize;
use crate::elf::header::ElfHeaders;
use crate::segment::Segment;

// Tags of packed relative relocations (gABI, "Dynamic Section"). goblin does not define them.
const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;
const DT_RELRENT: u64 = 37;

/// Maximum length in bytes of a name in a message.
const MAX_NAME_LENGTH: usize = 256;

/// File that needs a dynamic linker, or whose dynamic section cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DynamicError {
    /// PT_INTERP: a program that an interpreter has to load. Holds the interpreter's path.
    #[error("a dynamically linked program: it asks for the interpreter {0}")]
    Interpreter(String),
    /// DT_NEEDED: a program that needs a shared library. Holds the library's name.
    #[error("a dynamically linked program: it needs the library {0}")]
    Library(String),
    /// Shared library: an ET_DYN file without DF_1_PIE.
    #[error("a shared library (ET_DYN without the flag DF_1_PIE), not a program")]
    SharedLibrary,
    /// PT_DYNAMIC segment that is outside the file.
    #[error("the dynamic section (file offset {offset:#x}, {}) is outside the file of {}", ByteSize(*.size), ByteSize(*.file))]
    Outside {
        /// Offset of the segment in the file (`p_offset`).
        offset: u64,
        /// Size of the segment in the file, in bytes (`p_filesz`).
        size: u64,
        /// Size of the file in bytes.
        file: u64,
    },
}

impl DynamicError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Interpreter(_) | Self::Library(_) | Self::SharedLibrary => {
                Some("link it with `-static` or `-static-pie` and without libraries (`-nostdlib`)".to_owned())
            }
            Self::Outside { .. } => None,
        }
    }
}

/// Address and size of a table that the dynamic section points to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TableLocation {
    /// Linked virtual address.
    pub address: VirtAddr,
    /// Size in bytes; 0 if the file has no such table.
    pub size: u64,
    /// Size of an entry in bytes, if the file gives one.
    pub entry_size: Option<u64>,
}

/// Entries of the dynamic section that matter for loading. All tables are empty if the file has no dynamic section.
#[derive(Debug, Default)]
pub(crate) struct DynamicSection {
    pub rela: TableLocation,
    pub rel: TableLocation,
    pub relr: TableLocation,
    /// Relocations of the procedure linkage table: RELA if `plt_is_rela`, otherwise REL.
    pub plt: TableLocation,
    pub plt_is_rela: bool,
    strings: TableLocation,
    needed: Option<u64>,
    is_pie: bool,
    /// True if there is a DT_SONAME, the name of a shared library.
    has_name: bool,
}

impl DynamicSection {
    /// Reads the dynamic section. Refuses files that need an interpreter or a library.
    pub(crate) fn read(
        file: &[u8],
        headers: &ElfHeaders,
        segments: &[Segment],
    ) -> Result<Self, DynamicError> {
        let of_type = |wanted| headers.program_headers.iter().find(|header| header.p_type == wanted);
        let interpreter = of_type(PT_INTERP).map(|header| interpreter(file, header));
        let mut dynamic = Self::default();
        if let Some(header) = of_type(PT_DYNAMIC) {
            let (offset, size) = (header.p_offset, header.p_filesz);
            let outside = || DynamicError::Outside { offset, size, file: length(file.len()) };
            slice(file, offset, size).ok_or_else(outside)?;
            // goblin searches all given headers for each entry, so pass only the one that matters.
            let table = DynamicTable::parse(file, std::slice::from_ref(header), headers.class.context())
                .map_err(|_| outside())?;
            for entry in table.iter().flat_map(|table| &table.dyns).take_while(|entry| entry.d_tag != DT_NULL)
            {
                dynamic.record(entry.d_tag, entry.d_val);
            }
        }
        // glibc's shared library has an interpreter too. Old toolchains do not set DF_1_PIE in a PIE.
        let is_library = dynamic.has_name || interpreter.is_none();
        if headers.is_position_independent() && !dynamic.is_pie && is_library {
            return Err(DynamicError::SharedLibrary);
        }
        if let Some(interpreter) = interpreter {
            return Err(DynamicError::Interpreter(interpreter));
        }
        if let Some(offset) = dynamic.needed {
            return Err(DynamicError::Library(dynamic.string(file, segments, offset)));
        }
        Ok(dynamic)
    }

    fn record(&mut self, tag: u64, value: u64) {
        match tag {
            DT_NEEDED => self.needed = self.needed.or(Some(value)),
            DT_SONAME => self.has_name = true,
            DT_FLAGS_1 => self.is_pie = value & DF_1_PIE != 0,
            DT_STRTAB => self.strings.address = VirtAddr(value),
            DT_STRSZ => self.strings.size = value,
            DT_RELA => self.rela.address = VirtAddr(value),
            DT_RELASZ => self.rela.size = value,
            DT_RELAENT => self.rela.entry_size = Some(value),
            DT_REL => self.rel.address = VirtAddr(value),
            DT_RELSZ => self.rel.size = value,
            DT_RELENT => self.rel.entry_size = Some(value),
            DT_RELR => self.relr.address = VirtAddr(value),
            DT_RELRSZ => self.relr.size = value,
            DT_RELRENT => self.relr.entry_size = Some(value),
            DT_JMPREL => self.plt.address = VirtAddr(value),
            DT_PLTRELSZ => self.plt.size = value,
            DT_PLTREL => self.plt_is_rela = value == DT_RELA,
            // Symbol tables, hashes, versions and initializers are for a dynamic linker.
            _ => {}
        }
    }

    /// Reads a name from the dynamic string table, for a message.
    fn string(&self, file: &[u8], segments: &[Segment], offset: u64) -> String {
        let table = segments
            .iter()
            .find_map(|segment| segment.file_bytes(file, self.strings.address, self.strings.size))
            .unwrap_or_default();
        name(c_string(table, offset, MAX_NAME_LENGTH))
    }
}

/// Reads the path in PT_INTERP, for a message.
fn interpreter(file: &[u8], header: &ProgramHeader) -> String {
    let bytes = slice(file, header.p_offset, header.p_filesz).unwrap_or_default();
    name(c_string(bytes, 0, MAX_NAME_LENGTH))
}

fn name(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(
        || "(unreadable name)".to_owned(),
        |bytes| String::from_utf8_lossy(bytes).escape_debug().collect(),
    )
}
