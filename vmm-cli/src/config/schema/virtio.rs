//! `[[devices.virtio]]`: a type, and the keys of that type.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::values::Overlay;

/// Virtio device over MMIO. Its position in the list decides on address and interrupt.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Virtio {
    /// Type of the device: disk, terminal, or source of random numbers.
    #[serde(rename = "type")]
    #[schemars(required)]
    pub kind: Option<Spanned<VirtioType>>,
    /// Raw image of a block device: whole sectors of 512 bytes. The path is relative to the TOML file.
    pub file: Option<Spanned<String>>,
    /// True if the disk refuses writes. Default: true, unless `overlay` or `writable` is set.
    pub read_only: Option<Spanned<bool>>,
    /// Overlay for writes, so the image is unchanged: true for a temporary one, or the path of a new file.
    pub overlay: Option<Spanned<Overlay>>,
    /// True if writes go to the image itself.
    #[schemars(extend("default" = false))]
    pub writable: Option<Spanned<bool>>,
    /// True if a console receives standard input instead of the serial port.
    #[schemars(extend("default" = false))]
    pub input: Option<Spanned<bool>>,
}

/// Type of a virtio device, by the name in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VirtioType {
    /// Disk with a raw image file.
    Block,
    /// Terminal with one port.
    Console,
    /// Source of random numbers.
    Entropy,
}
