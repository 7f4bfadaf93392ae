//! `[devices.NAME]`: each device can be left out; movable ones can have another port, or an address instead.
//!
//! Default ports and descriptions in the schema come from the declarations of the devices.

use schemars::JsonSchema;
use serde::Deserialize;
use vmm_core::devices::{DeviceKind, DeviceLocation};
use vmm_core::spec::BusAddress;

use super::{FwCfg, Spanned, Switch, Virtio};
use crate::config::source::Span;
use crate::config::values::{Address, Count, OneOrMany, Port};

/// Devices of the machine, each with the name of its table. Those without `enabled = false` are there by default, except for
/// virtio devices and those of a PC.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Devices {
    /// Debug console: prints the bytes that the guest writes to a port.
    #[schemars(description = description("debug-console", ""))]
    pub debug_console: Option<Spanned<DebugConsole>>,
    /// Serial port, a 16550.
    #[schemars(description = description("serial", ""))]
    pub serial: Option<Spanned<Serial>>,
    /// Exit port: a write of the guest ends the run.
    #[schemars(description = description("debug-exit", "as with QEMU's isa-debug-exit"))]
    pub debug_exit: Option<Spanned<DebugExit>>,
    /// Hypercall registers, by which the guest prints, ends and reads arguments.
    #[schemars(description = description("hypercall", "none on a machine with fw-cfg, which has ports among these"))]
    pub hypercall: Option<Spanned<Hypercall>>,
    /// Real-time clock with CMOS memory.
    #[schemars(description = description("rtc", "on a PC"))]
    pub rtc: Option<Spanned<Switch>>,
    /// Keyboard controller, without a keyboard.
    #[schemars(description = description("i8042", "on a PC"))]
    pub i8042: Option<Spanned<Switch>>,
    /// Power management of ACPI and reset control register.
    #[schemars(description = description("power", "on a PC"))]
    pub power: Option<Spanned<Switch>>,
    /// Small ports that kernels access on every PC.
    #[schemars(description = description("legacy-ports", "on a PC"))]
    pub legacy_ports: Option<Spanned<Switch>>,
    /// ACPI tables, from 0xe0000 on. Default: on a PC.
    pub acpi: Option<Spanned<Switch>>,
    /// MP table for old kernels, from 0xf0000 on. Default: on a PC.
    pub mp_table: Option<Spanned<Switch>>,
    /// Configuration device of QEMU (fw_cfg).
    #[schemars(description = description("fw-cfg", "on a PC"))]
    pub fw_cfg: Option<Spanned<FwCfg>>,
    /// Test device of kvm-unit-tests.
    #[schemars(description = description("kvm-testdev", "off"))]
    pub kvm_testdev: Option<Spanned<Switch>>,
    /// Virtio devices: disks, terminals, random numbers. Default: none.
    pub virtio: Option<Spanned<OneOrMany<Virtio>>>,
}

impl Devices {
    /// Returns the table of a PC's part that has no settings but `enabled`, by its name
    /// ([`PlatformSpec::switches_mut`](vmm_core::spec::PlatformSpec::switches_mut)).
    #[must_use]
    pub fn switch(&self, name: &str) -> Option<&Spanned<Switch>> {
        let switch = match name {
            "rtc" => &self.rtc,
            "i8042" => &self.i8042,
            "power" => &self.power,
            "legacy-ports" => &self.legacy_ports,
            "acpi" => &self.acpi,
            "mp-table" => &self.mp_table,
            "kvm-testdev" => &self.kvm_testdev,
            _ => &None,
        };
        switch.as_ref()
    }

    /// Returns the span of the table of a PC's device.
    #[must_use]
    pub fn pc_span(&self, kind: DeviceKind) -> Option<&Span> {
        if kind == DeviceKind::FwCfg {
            self.fw_cfg.as_ref().map(|at| &at.span)
        } else {
            self.switch(kind.info().name).map(|at| &at.span)
        }
    }
}

/// Returns the schema's description of the table `name`: purpose and ports of its devices, and its default.
fn description(name: &str, note: &str) -> String {
    let devices = DeviceKind::ALL.iter().map(|kind| kind.info()).filter(|info| info.name == name);
    let (mut parts, mut default) = (Vec::new(), None);
    for info in devices {
        let (kind, first) = match info.location.address() {
            BusAddress::Port(port) => ("port", u64::from(port.0)),
            BusAddress::Mmio(address) => ("address", address.0),
        };
        match info.location {
            DeviceLocation::Movable(_) => {
                parts.push(format!("{} ({} registers)", info.purpose, info.length));
                default = Some(format!("{kind} {first:#x}"));
            }
            DeviceLocation::Fixed(_) | DeviceLocation::VirtioWindow { .. } if info.length > 1 => {
                parts.push(format!("{} ({kind} {first:#x} to {:#x})", info.purpose, info.last()));
            }
            DeviceLocation::Fixed(_) | DeviceLocation::VirtioWindow { .. } => {
                parts.push(format!("{} ({kind} {first:#x})", info.purpose));
            }
        }
    }
    let default = default.into_iter().chain((!note.is_empty()).then(|| note.to_owned()));
    format!("{}. Default: {}.", parts.join("; "), default.collect::<Vec<_>>().join(", "))
}

/// Returns the default port of a movable device.
fn default_port(kind: DeviceKind) -> Option<u16> {
    match kind.info().location.address() {
        BusAddress::Port(port) => Some(port.0),
        BusAddress::Mmio(_) => None,
    }
}

/// Keys of a movable device's table that say whether and where the device is.
#[derive(Debug, Default, Clone, Copy)]
pub struct LocationKeys<'r> {
    /// False if the machine does not have the device.
    pub enabled: Option<&'r Spanned<bool>>,
    /// First I/O port of the device.
    pub port: Option<&'r Spanned<Port>>,
    /// First guest-physical address of the device.
    pub mmio: Option<&'r Spanned<Address>>,
}

/// Table of a device whose address a configuration can change.
pub trait MovableDevice {
    /// Returns the keys that say whether and where the device is.
    fn location(&self) -> LocationKeys<'_>;
}

/// Declares the table of a movable device: the three keys of [`LocationKeys`], then its own. `flatten` would lose the spans of
/// the values, so the keys are repeated in each type.
macro_rules! movable_device {
    ($(#[$meta:meta])* $name:ident { $($(#[$key_meta:meta])* $key:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
        pub struct $name {
            /// True if the machine has the device.
            #[schemars(extend("default" = true))]
            pub enabled: Option<Spanned<bool>>,
            /// First I/O port of the device.
            #[schemars(extend("default" = default_port(DeviceKind::$name)))]
            pub port: Option<Spanned<Port>>,
            /// First guest-physical address, instead of a port.
            pub mmio: Option<Spanned<Address>>,
            $($(#[$key_meta])* pub $key: $type,)*
        }

        impl MovableDevice for $name {
            fn location(&self) -> LocationKeys<'_> {
                let (enabled, port, mmio) = (self.enabled.as_ref(), self.port.as_ref(), self.mmio.as_ref());
                LocationKeys { enabled, port, mmio }
            }
        }
    };
}

movable_device! {
    /// Table of the hypercall registers.
    Hypercall {
        /// True if the guest can read the host virtual addresses of its memory.
        #[schemars(extend("default" = false))]
        host_addresses: Option<Spanned<bool>>,
    }
}

movable_device! {
    /// Table of the debug console.
    DebugConsole {
        /// True if the kernel collects the output instead of an exit for each byte. Output then appears with the next exit of
        /// another kind, at most 20 ms later. Only without interrupts.
        #[schemars(extend("default" = false))]
        collect: Option<Spanned<bool>>,
    }
}

movable_device! {
    /// Table of the serial port.
    Serial {
        /// True if the guest receives standard input.
        #[schemars(extend("default" = true))]
        input: Option<Spanned<bool>>,
    }
}

movable_device! {
    /// Table of the exit port.
    DebugExit {
        /// Values that end the run with success when the guest writes them. Any other value v ends the run with the code
        /// v * 2 + 1.
        #[schemars(extend("default" = [0]))]
        success: Option<Spanned<Vec<Spanned<Count>>>>,
    }
}

#[cfg(test)]
mod tests {
    use vmm_core::spec::PlatformSpec;

    use super::*;

    #[test]
    fn every_switch_and_every_device_has_a_table() {
        for (name, _) in PlatformSpec::default().switches_mut() {
            let devices: Devices = toml::from_str(&format!("[{name}]\nenabled = false")).unwrap();
            assert!(devices.switch(name).is_some(), "add `{name}` to `Devices::switch`");
        }
        for kind in DeviceKind::ALL {
            let info = kind.info();
            match info.location {
                DeviceLocation::VirtioWindow { .. } => continue,
                DeviceLocation::Movable(_) | DeviceLocation::Fixed(_) => {}
            }
            let devices: Devices = toml::from_str(&format!("[{}]\nenabled = false", info.name)).unwrap();
            let is_fixed = matches!(info.location, DeviceLocation::Fixed(_));
            assert_eq!(devices.pc_span(*kind).is_some(), is_fixed, "{info:?}");
        }
    }

    #[test]
    fn the_template_has_the_default_ports() {
        for kind in DeviceKind::ALL {
            let info = kind.info();
            let DeviceLocation::Movable(BusAddress::Port(port)) = info.location else { continue };
            let table = format!("#[devices.{}]", info.name);
            let text = crate::config::template::text();
            let keys = text.split_once(&table).expect(info.name).1.lines().skip(1);
            let keys: Vec<&str> = keys.take_while(|line| line.starts_with('#')).collect();
            let key = format!("#port = {port}");
            assert!(keys.iter().any(|line| line.starts_with(&key)), "{}: no `{key}` in {keys:?}", info.name);
        }
    }

    #[test]
    fn descriptions_come_from_the_declarations() {
        assert_eq!(description("serial", ""), "16550 serial port (8 registers). Default: port 0x3f8.");
        assert_eq!(
            description("power", "on a PC"),
            "power-off, sleep, and a timer of 3.58 MHz (port 0x600 to 0x60b); OUT of 6 resets (port 0xcf9). Default: on \
             a PC."
        );
    }
}
