//! Identity of a machine: all that has to be the same in a machine that takes up a snapshot, as keys and values of a
//! configuration.
//!
//! The names are those of the TOML format and not of Rust types, so they can be shown to the user and do not change with the
//! code. Limits and the meanings of HLT and reset are left out: they may differ.

use std::fmt;
use std::path::{Path, absolute};

use crate::config::values::show_size;
use crate::config::{Config, MEMORY_HOLE};
use crate::diagnostic::Location;
use serde::{Deserialize, Serialize};
use vmm_core::devices::{DeviceInfo, DeviceKind, DeviceLocation};
use vmm_core::spec::cpuid_feature::CpuidFeature;
use vmm_core::spec::{
    BlockAccess, BlockSpec, BootSpec, BusAddress, CpuidPolicy, DeviceSpecs, EntryPoint, FwCfgFile, FwCfgSpec,
    GdtLayout, Interrupts, IrqchipPlace, MachineSpec, Mapping, MemoryRegion, PagePermissions, PagingSpec,
    PinnedAddresses, PlatformSpec, UnmappedPolicy, VirtioSpec,
};

/// Keys of a configuration and their values as TOML, each key once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity(Vec<Property>);

/// Key of a configuration, in the form of `--set`, and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Property {
    key: String,
    value: String,
}

impl Identity {
    /// Returns the identity of the machine. A new field of the description does not compile until it is decided here
    /// whether it belongs to the identity.
    pub(super) fn new(spec: &MachineSpec) -> Self {
        let MachineSpec {
            memory,
            tss_address,
            vcpus,
            interrupts,
            irqchip,
            boot,
            pinned,
            devices,
            unmapped,
            halt: _,
            reset: _,
            limits: _,
            cpuid,
            cpuid_changes,
            arguments,
        } = spec;
        let mut identity = Self::default();
        identity.boot(boot);
        identity.memory(memory);
        identity.put("vcpus", vcpus);
        identity.put(
            "interrupts",
            match interrupts {
                Interrupts::None => r#""none""#,
                Interrupts::Split => r#""split""#,
                Interrupts::Pc => r#""pc""#,
            },
        );
        // Files of earlier versions are of machines with the kernel's.
        identity.put_option("irqchip", (*irqchip == IrqchipPlace::Userspace).then_some(r#""userspace""#));
        identity.cpuid(*cpuid, cpuid_changes);
        identity.put("tss-address", number(tss_address.0));
        identity.put(
            "unmapped",
            match unmapped {
                UnmappedPolicy::ReadOnes => r#""ones""#,
                UnmappedPolicy::Stop => r#""stop""#,
            },
        );
        identity.put("guest.args", list(arguments.iter().map(|argument| quoted(argument))));
        identity.pinned(pinned);
        identity.devices(devices);
        identity
    }

    fn put(&mut self, key: impl Into<String>, value: impl fmt::Display) {
        self.0.push(Property { key: key.into(), value: value.to_string() });
    }

    fn put_option(&mut self, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn boot(&mut self, boot: &BootSpec) {
        let BootSpec { mode, ring, entry, paging, sse, registers, gdt_layout } = boot;
        self.put("mode", quoted(mode.name()));
        self.put("ring", ring.level());
        // The order of the descriptors follows from the boot protocol.
        self.put(
            "boot",
            match gdt_layout {
                GdtLayout::Linux => r#""linux""#,
                GdtLayout::Sysret => r#"not "linux""#,
            },
        );
        self.put(
            "guest.entry",
            match entry {
                EntryPoint::Address(address) => number(address.0),
                EntryPoint::Segmented { segment, offset } => format!(r#""{segment:#x}:{offset:#x}""#),
            },
        );
        self.put_option("sse", *sse);
        for (register, value) in registers {
            self.put(format!("registers.{}", register.name()), number(*value));
        }
        if mode.has_paging() {
            self.paging(paging);
        }
    }

    fn paging(&mut self, paging: &PagingSpec) {
        let PagingSpec { page_size, five_level, identity, maps } = paging;
        self.put_option("paging.page-size", page_size.map(|size| quoted(size.name())));
        self.put("paging.five-level", five_level);
        self.put("paging.identity", identity);
        for (index, Mapping { gva, gpa, size: bytes, access }) in maps.iter().enumerate() {
            let PagePermissions { writable, user, executable } = access;
            let key = |name| format!("paging.map.{index}.{name}");
            self.put(key("gva"), number(gva.0));
            self.put(key("gpa"), number(gpa.0));
            self.put(key("size"), size(*bytes));
            self.put(key("writable"), writable);
            self.put(key("user"), user);
            self.put(key("executable"), executable);
        }
    }

    fn memory(&mut self, regions: &[MemoryRegion]) {
        let split = split_at_hole(regions);
        let regions: Vec<MemoryRegion> = match &split {
            Some((whole, _)) => vec![whole.clone()],
            None => regions.to_vec(),
        };
        for (index, region) in regions.into_iter().enumerate() {
            // What the host may lend is no property of the machine.
            let MemoryRegion {
                address,
                size: bytes,
                read_only,
                huge_pages,
                mergeable,
                backing,
                overcommit: _,
            } = region;
            let key = |name| format!("memory.{index}.{name}");
            self.put(key("size"), size(bytes));
            // A region with an address is never split.
            self.put_option(&key("address"), split.is_none().then(|| number(address.0)));
            self.put(key("read-only"), read_only);
            self.put(key("backing"), quoted(backing.name()));
            match split {
                Some((_, above)) if above != huge_pages => {
                    self.put(key("huge-pages"), format_args!("{huge_pages}, and {above} from 4 GiB on"));
                }
                Some(_) | None => self.put(key("huge-pages"), huge_pages),
            }
            self.put(key("mergeable"), mergeable);
        }
    }

    fn cpuid(&mut self, policy: CpuidPolicy, changes: &[(CpuidFeature, bool)]) {
        self.put(
            "cpuid",
            match policy {
                CpuidPolicy::None => r#""none""#,
                CpuidPolicy::Host => r#""host""#,
            },
        );
        for (key, wanted) in [("cpuid.hide", false), ("cpuid.set", true)] {
            let names = changes.iter().filter(|(_, set)| *set == wanted).map(|(f, _)| quoted(f.name()));
            let names: Vec<String> = names.collect();
            self.put_option(key, (!names.is_empty()).then(|| list(names)));
        }
    }

    fn pinned(&mut self, pinned: &PinnedAddresses) {
        let PinnedAddresses { stack_top, stack_size, gdt, idt, tss, page_tables } = pinned;
        self.put_option("layout.stack-size", stack_size.map(size));
        for (key, address) in [
            ("guest.stack", stack_top),
            ("layout.gdt", gdt),
            ("layout.idt", idt),
            ("layout.tss", tss),
            ("layout.page-tables", page_tables),
        ] {
            self.put_option(key, address.map(|address| number(address.0)));
        }
    }

    fn devices(&mut self, devices: &DeviceSpecs) {
        let settings = devices.settings();
        for kind in DeviceKind::ALL {
            let DeviceInfo { name, location, .. } = kind.info();
            if !matches!(location, DeviceLocation::Movable(_)) {
                continue;
            }
            self.device(name, kind.address(devices));
            for setting in settings.iter().filter(|setting| setting.device == *name) {
                self.put(format!("devices.{name}.{}", setting.name), &setting.value);
            }
        }
        self.platform(&devices.platform);
        for (index, device) in devices.virtio.iter().enumerate() {
            self.virtio(index, device);
        }
    }

    /// Adds the keys that all devices with a place of their own have.
    fn device(&mut self, name: &str, at: Option<BusAddress>) {
        self.put(format!("devices.{name}.enabled"), at.is_some());
        match at {
            Some(BusAddress::Port(port)) => {
                self.put(format!("devices.{name}.port"), number(port.0.into()));
            }
            Some(BusAddress::Mmio(address)) => {
                self.put(format!("devices.{name}.mmio"), number(address.0));
            }
            None => {}
        }
    }

    fn platform(&mut self, platform: &PlatformSpec) {
        for (name, enabled) in platform.parts() {
            self.put(format!("devices.{name}.enabled"), enabled);
        }
        let Some(FwCfgSpec { files }) = &platform.fw_cfg else { return };
        for (index, FwCfgFile { name, bytes }) in files.iter().enumerate() {
            // Whether the bytes came from a path or from a text makes no difference to the machine.
            let sum = crc32fast::hash(bytes);
            let value = format!("{} with {} bytes of CRC-32 {sum:#010x}", quoted(name), bytes.len());
            self.put(format!("devices.fw-cfg.file.{index}"), value);
        }
    }

    fn virtio(&mut self, index: usize, device: &VirtioSpec) {
        let key = |name| format!("devices.virtio.{index}.{name}");
        self.put(key("type"), quoted(device.name()));
        match device {
            VirtioSpec::Block(BlockSpec { image, access }) => {
                self.put(key("file"), path(image.as_path()));
                self.put(key("read-only"), *access == BlockAccess::ReadOnly);
                self.put(
                    key("overlay"),
                    match access {
                        BlockAccess::Overlay(file) => path(file),
                        BlockAccess::Temporary => true.to_string(),
                        BlockAccess::ReadOnly | BlockAccess::InPlace => false.to_string(),
                    },
                );
                self.put(key("writable"), *access == BlockAccess::InPlace);
            }
            VirtioSpec::Console { input } => self.put(key("input"), input),
            VirtioSpec::Entropy => {}
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|property| property.key == key).map(|property| property.value.as_str())
    }

    /// Returns the identity without the keys that begin with `prefix`.
    #[cfg(test)]
    pub(super) fn without(&self, prefix: &str) -> Self {
        Self(self.0.iter().filter(|property| !property.key.starts_with(prefix)).cloned().collect())
    }

    /// Returns the value of a key, or its meaning where it is missing: a machine without any key of a device does not have the
    /// device, which a later version may have added.
    fn effective(&self, key: &str) -> Option<&str> {
        let is_switch = || key.starts_with("devices.") && key.ends_with(".enabled");
        self.get(key).or_else(|| is_switch().then_some("false"))
    }

    /// Returns the difference to the machine of `config`: of several the first whose key is set there, else the first.
    pub(super) fn difference(&self, now: &Self, config: &Config) -> Option<Difference> {
        let new = now.0.iter().filter(|property| self.get(&property.key).is_none());
        let differing =
            self.0.iter().chain(new).filter(|Property { key, .. }| self.effective(key) != now.effective(key));
        let keys: Vec<&str> = differing.map(|property| property.key.as_str()).collect();
        let set = keys.iter().find_map(|key| Some((*key, written(config, key)?)));
        let (key, written) = match set {
            Some((key, written)) => (key, Some(written)),
            None => (*keys.first()?, None),
        };
        let is_single = |identity: &Self| identity.get("memory.1.size").is_none();
        let shown = match key.strip_prefix("memory.0.") {
            Some(name) if is_single(self) && is_single(now) => format!("memory.{name}"),
            Some(_) | None => key.to_owned(),
        };
        Some(Difference {
            key: shown,
            then: self.get(key).map(str::to_owned),
            now: now.get(key).map(str::to_owned),
            is_set: written.is_some(),
            location: config.location(&written.unwrap_or_else(|| key.to_owned())),
        })
    }
}

/// One `key = value` a line.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|Property { key, value }| writeln!(f, "{key} = {value}"))
    }
}

/// Key whose values differ between a snapshot and a configuration.
pub(super) struct Difference {
    key: String,
    /// Value in the snapshot, `None` if it has no such key.
    then: Option<String>,
    /// Value of the configuration, `None` if it has no such key.
    now: Option<String>,
    /// True if the configuration sets the key.
    is_set: bool,
    /// Location of the key in the configuration, or of the nearest table around it.
    pub(super) location: Location,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, then, now, is_set, location: _ } = self;
        match then {
            Some(then) => write!(f, "`{key}` was {then} then")?,
            None => write!(f, "`{key}` was not there then")?,
        }
        match now {
            Some(now) if *is_set => write!(f, " and is {now} now"),
            Some(now) => write!(f, " and has its default now, {now}"),
            None => f.write_str(" and is not there now"),
        }
    }
}

/// Returns the name by which the configuration sets `key`, if it does: a register may have its 32-bit one.
fn written(config: &Config, key: &str) -> Option<String> {
    let short = key.strip_prefix("registers.r").map(|name| format!("registers.e{name}"));
    [Some(key.to_owned()), short].into_iter().flatten().find(|key| config.sets(key))
}

/// Returns the one `[memory]` that was split around the hole into these regions, if they are such, and `huge-pages` of the
/// upper part: its default follows from the size, so it can be another one than that of the lower part.
fn split_at_hole(regions: &[MemoryRegion]) -> Option<(MemoryRegion, bool)> {
    let [low, high] = regions else { return None };
    let MemoryRegion { address, size, huge_pages, .. } = *high;
    let is_rest = MemoryRegion { address, size, huge_pages, ..low.clone() } == *high;
    let is_split = (low.address.0, low.size, address.0) == (0, MEMORY_HOLE.start, MEMORY_HOLE.end);
    let whole = || MemoryRegion { size: low.size.saturating_add(size), ..low.clone() };
    (is_rest && is_split).then(|| (whole(), huge_pages))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// Hexadecimal, as a string from 2^63 on: TOML has no such integers.
fn number(value: u64) -> String {
    if i64::try_from(value).is_ok() { format!("{value:#x}") } else { format!("\"{value:#x}\"") }
}

fn size(bytes: u64) -> String {
    quoted(&show_size(bytes).replace(' ', ""))
}

/// Absolute, so that it does not depend on the working directory.
fn path(path: &Path) -> String {
    let absolute = absolute(path).unwrap_or_else(|_| path.to_owned());
    quoted(&absolute.display().to_string())
}
