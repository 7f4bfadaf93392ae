//! Devices and firmware tables of a PC as plain data.
//!
//! Their addresses are fixed, because kernels expect them there. A machine has none of them by default; [`PlatformSpec::pc`] has
//! all but the test device. Interrupt controllers and timers are KVM's and not part of this.

use std::fmt;

/// Devices and tables of a PC that the machine has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlatformSpec {
    /// Real-time clock with CMOS memory.
    pub rtc: bool,
    /// Keyboard controller without a keyboard; it can reset the machine.
    pub i8042: bool,
    /// Power management of ACPI (power-off, suspend, timer) and reset control register.
    pub power: bool,
    /// Ports that kernels access on every PC: 0x80 and 0xed (delays), 0x92 (system control), those of an absent display and of an
    /// absent PCI bus.
    pub legacy_ports: bool,
    /// ACPI tables, from [`crate::firmware::RSDP`] on.
    pub acpi: bool,
    /// MP table of Intel's MultiProcessor Specification 1.4, for kernels older than ACPI.
    pub mp_table: bool,
    /// Configuration device of QEMU (fw_cfg), with its files.
    pub fw_cfg: Option<FwCfgSpec>,
    /// Test device of kvm-unit-tests.
    pub kvm_testdev: bool,
}

impl PlatformSpec {
    /// Returns the description with all devices and tables of a PC but the test device.
    #[must_use]
    pub fn pc() -> Self {
        Self {
            rtc: true,
            i8042: true,
            power: true,
            legacy_ports: true,
            acpi: true,
            mp_table: true,
            fw_cfg: Some(FwCfgSpec::default()),
            kvm_testdev: false,
        }
    }

    /// Returns all parts of a PC by the names of their tables in a configuration, with true for those that the machine has.
    #[must_use]
    pub const fn parts(&self) -> [(&'static str, bool); 8] {
        let Self { rtc, i8042, power, legacy_ports, acpi, mp_table, fw_cfg, kvm_testdev } = self;
        [
            ("rtc", *rtc),
            ("i8042", *i8042),
            ("power", *power),
            ("legacy-ports", *legacy_ports),
            ("acpi", *acpi),
            ("mp-table", *mp_table),
            ("fw-cfg", fw_cfg.is_some()),
            ("kvm-testdev", *kvm_testdev),
        ]
    }

    /// Returns the parts of a PC that have no settings but being there, each with the name of its table in a configuration.
    pub const fn switches_mut(&mut self) -> [(&'static str, &mut bool); 7] {
        let Self { rtc, i8042, power, legacy_ports, acpi, mp_table, fw_cfg: _, kvm_testdev } = self;
        [
            ("rtc", rtc),
            ("i8042", i8042),
            ("power", power),
            ("legacy-ports", legacy_ports),
            ("acpi", acpi),
            ("mp-table", mp_table),
            ("kvm-testdev", kvm_testdev),
        ]
    }

    /// Returns true if firmware tables lie in memory.
    #[must_use]
    pub const fn has_tables(&self) -> bool {
        self.acpi || self.mp_table
    }
}

/// Items of QEMU's configuration device besides memory size and number of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FwCfgSpec {
    /// Files, which the guest finds by name.
    pub files: Vec<FwCfgFile>,
}

/// File of QEMU's configuration device, which the guest reads by name.
#[derive(Clone, PartialEq, Eq)]
pub struct FwCfgFile {
    /// Name of the file, such as `opt/com.example/key`: 1 to 55 bytes of ASCII.
    pub name: String,
    /// Contents of the file.
    pub bytes: Vec<u8>,
}

/// Name and size: files can be large.
impl fmt::Debug for FwCfgFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}
