//! Values that are one word out of a few. The comments are shown by editors.

use schemars::JsonSchema;
use serde::Deserialize;

/// How a guest is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// An ELF file, loaded and entered in `mode`.
    Elf,
    /// Multiboot 1: 32-bit entry, information in EBX.
    Multiboot,
    /// Multiboot 2: 32-bit entry, a list of tags in EBX.
    Multiboot2,
    /// PVH: the 32-bit entry of Xen's ELF note, start information in EBX.
    Pvh,
    /// A Linux bzImage or vmlinux by the Linux boot protocol, the zero page in RSI.
    Linux,
    /// Bytes loaded at `address` and entered in `mode`.
    Flat,
    /// 512 bytes at 0x7c00 in real mode, without a BIOS.
    BootSector,
}

/// How files get into guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loading {
    /// Large files are mapped, small ones copied.
    Auto,
    /// Everything is copied before the guest runs.
    Copy,
    /// Whatever consists of whole pages is mapped.
    Map,
}
