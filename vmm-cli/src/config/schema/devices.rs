//! `[devices.NAME]`: each can be left out, or moved to another port or into the physical address space.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{FwCfg, Spanned, Switch, Virtio};
use crate::config::values::{Address, Count, OneOrMany, Port};

/// All devices. Each is there unless it is left out, but for virtio devices.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Devices {
    /// Bytes written to it go to the console. Default: port 0xe9.
    pub debug_console: Option<Spanned<DebugConsole>>,
    /// A 16550 serial port, 8 registers. Default: port 0x3f8.
    pub serial: Option<Spanned<Serial>>,
    /// A write ends the run, as with QEMU's isa-debug-exit; 4 bytes. Default: port 0xf4.
    pub debug_exit: Option<Spanned<DebugExit>>,
    /// The hypercall registers, 64 bytes. Default: port 0x500; none on a machine with fw-cfg, which has ports among these.
    pub hypercall: Option<Spanned<Place>>,
    /// The real-time clock and its CMOS memory, ports 0x70 and 0x71. Default: on a PC.
    pub rtc: Option<Spanned<Switch>>,
    /// The keyboard controller without a keyboard, ports 0x60 to 0x64. Default: on a PC.
    pub i8042: Option<Spanned<Switch>>,
    /// Power-off and a timer at ports 0x600 to 0x60b, reset at 0xcf9. Default: on a PC.
    pub power: Option<Spanned<Switch>>,
    /// Ports 0x80, 0x92, 0xed, those of a display (0x3d4) and a PCI bus (0xcf8 to 0xcff) that are not there. Default: on a PC.
    pub legacy_ports: Option<Spanned<Switch>>,
    /// The ACPI tables, from 0xe0000 on. Default: on a PC.
    pub acpi: Option<Spanned<Switch>>,
    /// The MP table for old kernels, from 0xf0000 on. Default: on a PC.
    pub mp_table: Option<Spanned<Switch>>,
    /// QEMU's configuration device, ports 0x510 and 0x511. Default: on a PC.
    pub fw_cfg: Option<Spanned<FwCfg>>,
    /// The test device of kvm-unit-tests: ports 0xe0 to 0xe7 and 0x2000 to 0x2017, 64 KiB at 0xff00_0000. Default: off.
    pub kvm_testdev: Option<Spanned<Switch>>,
    /// Virtio devices: disks, terminals, random numbers. Default: none.
    pub virtio: Option<Spanned<OneOrMany<Virtio>>>,
}

/// A device without settings of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Place {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
    /// Its first I/O port.
    pub port: Option<Spanned<Port>>,
    /// Its first guest-physical address, instead of a port.
    pub mmio: Option<Spanned<Address>>,
}

/// The debug console.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct DebugConsole {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
    /// Its I/O port.
    pub port: Option<Spanned<Port>>,
    /// Its guest-physical address, instead of a port.
    pub mmio: Option<Spanned<Address>>,
    /// Whether the kernel collects what is written to the port, in place of an exit for each byte. What the guest prints then
    /// appears with its next exit of another kind, and 20 ms later at most. Only without interrupts.
    #[schemars(extend("default" = false))]
    pub collect: Option<Spanned<bool>>,
}

/// The serial port.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Serial {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
    /// Its first I/O port.
    pub port: Option<Spanned<Port>>,
    /// Its first guest-physical address, instead of a port.
    pub mmio: Option<Spanned<Address>>,
    /// Whether the guest receives what comes in on standard input.
    #[schemars(extend("default" = true))]
    pub input: Option<Spanned<bool>>,
}

/// The exit port.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct DebugExit {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
    /// Its first I/O port.
    pub port: Option<Spanned<Port>>,
    /// Its first guest-physical address, instead of a port.
    pub mmio: Option<Spanned<Address>>,
    /// The values that mean success. Any other value v ends the run with the code v * 2 + 1.
    #[schemars(extend("default" = [0]))]
    pub success: Option<Spanned<Vec<Spanned<Count>>>>,
}
