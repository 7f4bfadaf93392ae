//! `[guest]` and `[[load]]`: the program, and more files for its memory.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Loading, Spanned};
use crate::config::values::{Address, EntryChoice, OneOrMany};

/// The program to run.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Guest {
    /// A kernel of any format: `boot` says how it is started, or the file itself. The path is as that of `elf`.
    pub file: Option<Spanned<String>>,
    /// An ELF file. The path is relative to the TOML file; {mode} stands for the name of the mode.
    pub elf: Option<Spanned<String>>,
    /// A flat binary, loaded as it is at `address`. The path is as that of `elf`.
    pub flat: Option<Spanned<String>>,
    /// Where a flat binary is loaded.
    pub address: Option<Spanned<Address>>,
    /// Where a static position-independent ELF file is loaded.
    pub base: Option<Spanned<Address>>,
    /// Where execution starts: a symbol, an address, or "segment:offset" in real mode.
    /// Default: the entry of the ELF file, or the address of the flat binary.
    pub entry: Option<Spanned<EntryChoice>>,
    /// The initial stack pointer: the address above the stack. Default: placed automatically.
    pub stack: Option<Spanned<Address>>,
    /// How the files get into guest memory. Default: "auto".
    #[schemars(extend("default" = "auto"))]
    pub loading: Option<Spanned<Loading>>,
    /// Arguments that the guest can ask for over the hypercall ports.
    pub args: Option<Spanned<Vec<Spanned<String>>>>,
    /// The kernel's command line, for boot protocols that have one. Default: none, or `console=ttyS0` for Linux.
    pub cmdline: Option<Spanned<String>>,
    /// Linux' initial ramdisk; the first module of other kernels. The path is relative to the TOML file.
    pub initrd: Option<Spanned<String>>,
    /// Modules: files that the boot loader puts into memory and tells the kernel of.
    pub module: Option<Spanned<OneOrMany<Module>>>,
}

/// A module of a kernel.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Module {
    /// The file. The path is relative to the TOML file.
    #[schemars(required)]
    pub file: Option<Spanned<String>>,
    /// The module's own command line. Default: the name of the file.
    pub cmdline: Option<Spanned<String>>,
}

/// One more file to put into memory: exactly one of `file` and `elf`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Load {
    /// A file whose bytes are put at `address` as they are. The path is relative to the TOML file.
    #[serde(alias = "flat")]
    pub file: Option<Spanned<String>>,
    /// An ELF file, whose segments are put where it says. Its entry is not used.
    pub elf: Option<Spanned<String>>,
    /// Where the bytes of `file` go.
    pub address: Option<Spanned<Address>>,
}
