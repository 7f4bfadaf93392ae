//! What surrounds the CPU on a PC, as plain data: the chipset's devices and the tables that firmware leaves in memory.
//!
//! Their addresses are those of every PC, so nothing here has one: kernels expect them there. A machine has none of them
//! by default; [`PlatformSpec::pc`] has all but the test device. Interrupt controllers and timers are KVM's and no part
//! of this.

use std::fmt;

/// Which parts of a PC the machine has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlatformSpec {
    /// The real-time clock and its CMOS memory, ports 0x70 and 0x71.
    pub rtc: bool,
    /// The keyboard controller, ports 0x60 and 0x64, without a keyboard: it can reset the machine.
    pub i8042: bool,
    /// The chipset's power management (ports 0x600 to 0x60b: power-off, a timer) and reset control (0xcf9).
    pub power: bool,
    /// Small ports that software touches out of habit: 0x80 and 0xed (delays), 0x92 (system control), 0x3d4 and 0x3d5 (the
    /// cursor of a display that is not there), 0xcf8 and 0xcfa to 0xcff (a PCI bus that is not there either).
    pub legacy_ports: bool,
    /// The ACPI tables, from [`crate::firmware::RSDP`] on.
    pub acpi: bool,
    /// The MP table of Intel's MultiProcessor Specification 1.4, for kernels older than ACPI.
    pub mp_table: bool,
    /// QEMU's configuration device, ports 0x510 and 0x511.
    pub fw_cfg: Option<FwCfgSpec>,
    /// The test device of kvm-unit-tests: ports 0xe0 to 0xe7 and 0x2000 to 0x2017, 64 KiB at 0xff00_0000.
    pub kvm_testdev: bool,
}

impl PlatformSpec {
    /// All that a PC has.
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

    /// Whether anything of firmware's lies in memory.
    #[must_use]
    pub const fn has_tables(&self) -> bool {
        self.acpi || self.mp_table
    }
}

/// What the configuration device offers besides memory size and number of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FwCfgSpec {
    /// Files, found by name.
    pub files: Vec<FwCfgFile>,
}

/// A file of the configuration device.
#[derive(Clone, PartialEq, Eq)]
pub struct FwCfgFile {
    /// Its name, such as `opt/com.example/key`: 1 to 55 bytes of ASCII.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// The name and the size: files can be large.
impl fmt::Debug for FwCfgFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}
