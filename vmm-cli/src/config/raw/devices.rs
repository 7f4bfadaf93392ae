//! `[devices.NAME]`: each can be left out, or moved to another port or into the physical address space.

use schemars::JsonSchema;
use serde::Deserialize;

use super::At;
use crate::config::values::{Address, Count, Port};

/// All devices. Each is there unless it is left out.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Devices {
    /// Bytes written to it go to the console. Default: port 0xe9.
    pub debug_console: Option<At<Place>>,
    /// A 16550 serial port, 8 registers. Default: port 0x3f8.
    pub serial: Option<At<Serial>>,
    /// A write ends the run, as with QEMU's isa-debug-exit; 4 bytes. Default: port 0xf4.
    pub debug_exit: Option<At<DebugExit>>,
    /// The hypercall registers, 64 bytes. Default: port 0x500.
    pub hypercall: Option<At<Place>>,
}

/// A device without settings of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Place {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<At<bool>>,
    /// Its first I/O port.
    pub port: Option<At<Port>>,
    /// Its first guest-physical address, instead of a port.
    pub mmio: Option<At<Address>>,
}

/// The serial port.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Serial {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<At<bool>>,
    /// Its first I/O port.
    pub port: Option<At<Port>>,
    /// Its first guest-physical address, instead of a port.
    pub mmio: Option<At<Address>>,
    /// Whether the guest receives what comes in on standard input.
    #[schemars(extend("default" = true))]
    pub input: Option<At<bool>>,
}

/// The exit port.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct DebugExit {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<At<bool>>,
    /// Its first I/O port.
    pub port: Option<At<Port>>,
    /// Its first guest-physical address, instead of a port.
    pub mmio: Option<At<Address>>,
    /// The values that mean success. Any other value v ends the run with the code v * 2 + 1.
    #[schemars(extend("default" = [0]))]
    pub success: Option<At<Vec<At<Count>>>>,
}
