//! Values that are one word out of a few. Editors show the doc comments.

use schemars::JsonSchema;
use serde::Deserialize;

/// Boot protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootProtocol {
    /// ELF file, loaded and entered in `mode`.
    Elf,
    /// Multiboot 1: 32-bit entry, information in EBX.
    Multiboot,
    /// Multiboot 2: 32-bit entry, a list of tags in EBX.
    Multiboot2,
    /// PVH: 32-bit entry of Xen's ELF note, start information in EBX.
    Pvh,
    /// Linux boot protocol for a bzImage or vmlinux: zero page in RSI.
    Linux,
    /// Bytes loaded at `address` and entered in `mode`.
    Flat,
    /// 512 bytes at 0x7c00 in real mode, without a BIOS.
    BootSector,
}

/// Method of loading files into guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loading {
    /// Map large files, copy small ones.
    Auto,
    /// Copy everything before the guest runs.
    Copy,
    /// Map all whole pages.
    Map,
}
