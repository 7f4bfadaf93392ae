//! `[guest]` and `[[load]]`: the program, and further files for its memory.

use schemars::JsonSchema;
use serde::Deserialize;
use vmm_loader::LoadPolicy;

use super::Spanned;
use crate::config::values::{Address, EntryChoice, OneOrMany};

/// Program or kernel to run.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct GuestTable {
    /// Kernel of any format to run, started by the protocol of `boot` or of the file itself. The path is resolved like that of
    /// `elf`.
    pub file: Option<Spanned<String>>,
    /// ELF file to run. The path is relative to the TOML file; {mode} stands for the name of the mode.
    pub elf: Option<Spanned<String>>,
    /// Flat binary to run, loaded unchanged at `address`. The path is resolved like that of `elf`.
    pub flat: Option<Spanned<String>>,
    /// Load address of a flat binary.
    pub address: Option<Spanned<Address>>,
    /// Load address of a static position-independent ELF file.
    pub base: Option<Spanned<Address>>,
    /// Entry point: a symbol, an address, or "segment:offset" in real mode.
    /// Default: the entry of the ELF file, or the address of the flat binary.
    pub entry: Option<Spanned<EntryChoice>>,
    /// Initial stack pointer: the end of the stack. Default: allocated.
    pub stack: Option<Spanned<Address>>,
    /// Method of loading the files into guest memory. Default: "auto".
    #[schemars(extend("default" = "auto"))]
    pub loading: Option<Spanned<LoadPolicy>>,
    /// Arguments that the guest can read over the hypercall ports.
    pub args: Option<Spanned<Vec<Spanned<String>>>>,
    /// Command line of the kernel, for boot protocols that have one. Default: none, or `console=ttyS0` for Linux.
    pub cmdline: Option<Spanned<String>>,
    /// Initial ramdisk of Linux; the first module of other kernels. The path is relative to the TOML file.
    pub initrd: Option<Spanned<String>>,
    /// Modules: files that the boot loader loads into memory and passes to the kernel.
    pub module: Option<Spanned<OneOrMany<ModuleTable>>>,
}

/// Module: a file that the boot loader passes to a kernel.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct ModuleTable {
    /// File of the module. The path is relative to the TOML file.
    #[schemars(required)]
    pub file: Option<Spanned<String>>,
    /// Command line of the module. Default: the name of the file.
    pub cmdline: Option<Spanned<String>>,
}

/// Further file to load into memory: exactly one of `file` and `elf`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Load {
    /// File whose bytes are loaded unchanged at `address`. The path is relative to the TOML file.
    #[serde(alias = "flat")]
    pub file: Option<Spanned<String>>,
    /// ELF file whose segments are loaded at their addresses. Its entry is not used.
    pub elf: Option<Spanned<String>>,
    /// Guest-physical address at which `file` is loaded.
    pub address: Option<Spanned<Address>>,
}
