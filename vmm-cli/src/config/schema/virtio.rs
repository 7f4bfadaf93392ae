//! `[[devices.virtio]]`: each is of one type, which decides what its other keys can be.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::values::Overlay;

/// A virtio device, reached over MMIO. Its place in the list decides on its address and interrupt.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Virtio {
    /// What it is.
    #[serde(rename = "type")]
    #[schemars(required)]
    pub kind: Option<Spanned<VirtioType>>,
    /// A block device's raw image: a number of 512-byte sectors. The path is relative to the TOML file.
    pub file: Option<Spanned<String>>,
    /// The disk refuses writes. Default: unless `overlay` or `writable` says where they go.
    pub read_only: Option<Spanned<bool>>,
    /// Writes go to an overlay, and the image stays as it is: true for one that vanishes, or the path of a new file.
    pub overlay: Option<Spanned<Overlay>>,
    /// Writes go to the image itself.
    #[schemars(extend("default" = false))]
    pub writable: Option<Spanned<bool>>,
    /// A console receives what comes in on standard input, and the serial port does not.
    #[schemars(extend("default" = false))]
    pub input: Option<Spanned<bool>>,
}

/// A type of virtio device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VirtioType {
    /// A disk, from a raw image file.
    Block,
    /// A terminal.
    Console,
    /// Random numbers.
    Entropy,
}
