//! A configuration with every key: each value arrives in the machine. Overrides of the command line.

#![expect(clippy::panic, reason = "the helpers of tests are tests")]

use std::path::Path;
use std::time::Duration;

use vmm_cli::config::{
    Config, EntryChoice, ExpectedMemory, FileKind, FwCfgSource, MachineTemplate, MemoryLocation, Overrides,
};
use vmm_cli::diagnostic::Location;
use vmm_core::machine::end::EndKind;
use vmm_core::spec::mode::{Mode, PageSize, Ring};
use vmm_core::spec::{
    BlockAccess, BlockSpec, BusAddress, CpuidPolicy, DebugConsoleSpec, DebugExitSpec, DeviceSpecs, FwCfgFile,
    FwCfgSpec, HaltPolicy, HypercallSpec, LimitSpec, Mapping, MemoryBacking, MemoryRegion, PagePermissions,
    PagingSpec, PinnedAddresses, PlatformSpec, Register, SerialSpec, UnmappedPolicy, VirtioSpec,
};
use vmm_core::{Gpa, Gva, Port};
use vmm_loader::LoadPolicy;

const EVERY_KEY: &str = r#"
mode = "long"
ring = 3
tss-address = 0xfff0_0000
unmapped = "stop"
halt = "hung"
cpuid = "host"
sse = false

[[memory]]
size = "2MiB"
mergeable = false

[[memory]]
size = 0x1000
address = "0x1_0000_0000"
read-only = true
huge-pages = true

[[memory]]
size = "128MiB"
address = "0x2_0000_0000"
overcommit = true

[[memory]]
size = "2MiB"
address = "0x3_0000_0000"
backing = "hugetlb"

[guest]
elf = "build/guest-{mode}.elf"
loading = "map"
base = 0x10_0000
entry = "_start"
stack = 0x8_0000
args = ["one", "two words"]

[[load]]
file = "/data/blob.bin"
address = 0x5_0000

[[load]]
elf = "extra.elf"

[paging]
page-size = "4KiB"
five-level = true
identity = false

[[paging.map]]
gva = "0xffff_ffff_8000_0000"
gpa = 0x1000
size = "64KiB"
writable = false
user = false
executable = false

[[paging.map]]
gva = 0
gpa = 0
size = "2MiB"

[layout]
stack-size = "8KiB"
gdt = 0x1000
idt = 0x2000
tss = 0x3000
page-tables = 0x1_0000

[registers]
rdi = 0x1234
r15 = "0xffff_ffff_ffff_ffff"
eflags = 0x202

[devices.debug-console]
port = 0x402
collect = true

[devices.serial]
mmio = 0xd010_0000
input = false

[devices.debug-exit]
port = 0x501
success = [0, 0x10]

[devices.hypercall]
port = 0x700
host-addresses = true

[[devices.virtio]]
type = "block"
file = "disk.img"
overlay = "changes"

[[devices.virtio]]
type = "block"
file = "/disk.img"
read-only = false
writable = true

[[devices.virtio]]
type = "console"
input = true

[[devices.virtio]]
type = "entropy"

[devices.rtc]
enabled = true

[devices.i8042]
enabled = false

[devices.power]
enabled = true

[devices.legacy-ports]
enabled = true

[devices.acpi]
enabled = true

[devices.mp-table]
enabled = true

[devices.fw-cfg]
enabled = true

[[devices.fw-cfg.file]]
name = "opt/text"
text = "value"

[[devices.fw-cfg.file]]
name = "opt/file"
path = "../value.bin"

[devices.kvm-testdev]
enabled = true

[limits]
time = "1m"
exits = 1_000_000

[expect]
end = "exit"
output = "Hello, world!\n"
output-contains = ["Hello", "!"]
output-regex = 'w\w+d!$'
cause = ["page fault", "not present"]
exit-code = 42
exits = 17
max-exits = 100
registers = { eax = 42, rip = 0x1000 }

[[expect.memory]]
address = 0x400
u16 = 0x1234

[[expect.memory]]
symbol = "answer"
text = "abc"

[[expect.memory]]
address = 0x500
bytes = [1, 255]
"#;

fn load(text: &str, overrides: &Overrides) -> Config {
    Config::from_text(text, Path::new("dir/vm.toml"), overrides)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Returns the machine of a configuration that names its mode.
fn machine(config: &Config) -> MachineTemplate {
    let start = config.start.complete().unwrap_or_else(|| panic!("no protocol or mode"));
    config.machine(start).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn the_machine() {
    let machine = machine(&load(EVERY_KEY, &Overrides::new()));
    let memory = [
        MemoryRegion { mergeable: false, ..MemoryRegion::new(Gpa(0), 2 << 20) },
        MemoryRegion { read_only: true, huge_pages: true, ..MemoryRegion::new(Gpa(1 << 32), 4096) },
        MemoryRegion { huge_pages: true, overcommit: true, ..MemoryRegion::new(Gpa(2 << 32), 128 << 20) },
        MemoryRegion {
            backing: MemoryBacking::Hugetlb,
            mergeable: false,
            ..MemoryRegion::new(Gpa(3 << 32), 2 << 20)
        },
    ];
    assert_eq!(machine.memory, memory);
    assert_eq!(machine.tss_address, Gpa(0xfff0_0000));
    assert_eq!(
        (machine.unmapped, machine.halt, machine.cpuid),
        (UnmappedPolicy::Stop, HaltPolicy::Hung, CpuidPolicy::Host)
    );
    assert_eq!(machine.limits, LimitSpec { time: Some(Duration::from_secs(60)), exits: Some(1_000_000) });
    assert_eq!(machine.arguments, ["one", "two words"]);
    let placement = PinnedAddresses {
        stack_top: Some(Gpa(0x8_0000)),
        stack_size: Some(8 << 10),
        gdt: Some(Gpa(0x1000)),
        idt: Some(Gpa(0x2000)),
        tss: Some(Gpa(0x3000)),
        page_tables: Some(Gpa(0x1_0000)),
    };
    assert_eq!(machine.pinned, placement);
    let devices = DeviceSpecs {
        debug_console: Some(DebugConsoleSpec { at: BusAddress::Port(Port(0x402)), collect: true }),
        serial: Some(SerialSpec { at: BusAddress::Mmio(Gpa(0xd010_0000)), input: false }),
        debug_exit: Some(DebugExitSpec { at: BusAddress::Port(Port(0x501)), success: vec![0, 0x10] }),
        hypercall: Some(HypercallSpec { at: BusAddress::Port(Port(0x700)), host_addresses: true }),
        platform: PlatformSpec {
            rtc: true,
            i8042: false,
            power: true,
            legacy_ports: true,
            acpi: true,
            mp_table: true,
            fw_cfg: Some(FwCfgSpec {
                files: vec![
                    FwCfgFile { name: "opt/text".to_owned(), bytes: b"value".to_vec() },
                    FwCfgFile { name: "opt/file".to_owned(), bytes: vec![] },
                ],
            }),
            kvm_testdev: true,
        },
        virtio: vec![
            VirtioSpec::Block(BlockSpec {
                image: "dir/disk.img".into(),
                access: BlockAccess::Overlay("dir/changes".into()),
            }),
            VirtioSpec::Block(BlockSpec { image: "/disk.img".into(), access: BlockAccess::InPlace }),
            VirtioSpec::Console { input: true },
            VirtioSpec::Entropy,
        ],
        custom: vec![],
    };
    assert_eq!(machine.devices, devices);
}

/// A virtio console with the console's input takes it from the serial port. A disk is read-only by default.
#[test]
fn virtio_devices_by_default() {
    let devices = |more: &str| {
        let text = format!("mode = \"long\"\n[memory]\nsize = \"2MiB\"\n[guest]\nelf = \"x\"\n{more}");
        machine(&load(&text, &Overrides::new())).devices
    };
    let input = |devices: &DeviceSpecs| devices.serial.map(|serial| serial.input);
    let console = devices("[devices.virtio]\ntype = \"console\"\ninput = true\n");
    assert_eq!((input(&console), console.virtio), (Some(false), vec![VirtioSpec::Console { input: true }]));
    let console = devices("[devices.virtio]\ntype = \"console\"\n");
    assert_eq!((input(&console), console.virtio), (Some(true), vec![VirtioSpec::Console { input: false }]));
    let access =
        |keys: &str| match devices(&format!("[devices.virtio]\ntype = \"block\"\nfile = \"d\"\n{keys}"))
            .virtio
            .pop()
        {
            Some(VirtioSpec::Block(block)) => block.access,
            other => panic!("{other:?}"),
        };
    assert_eq!(access(""), BlockAccess::ReadOnly);
    assert_eq!(access("read-only = true\noverlay = false\nwritable = false"), BlockAccess::ReadOnly);
    assert_eq!(access("overlay = true"), BlockAccess::Temporary);
}

#[test]
fn a_file_for_fw_cfg_is_read_later() {
    let source = FwCfgSource {
        index: 1,
        path: "dir/../value.bin".into(),
        key: "devices.fw-cfg.file.1.path".to_owned(),
    };
    assert_eq!(load(EVERY_KEY, &Overrides::new()).fw_cfg, [source]);
}

/// A machine has all devices of a PC or none. With them it has no hypercall device by default.
#[test]
fn interrupts_of_a_pc_select_its_devices() {
    let text = "mode = \"long\"\n[memory]\nsize = \"2MiB\"\n[guest]\nelf = \"x\"\n";
    let devices = |text: &str| machine(&load(text, &Overrides::new())).devices;
    let plain = devices(text);
    assert_eq!(plain, DeviceSpecs::default());
    let pc = format!("interrupts = \"pc\"\n{text}");
    let expected = DeviceSpecs { platform: PlatformSpec::pc(), hypercall: None, ..DeviceSpecs::default() };
    assert_eq!(devices(&pc), expected);
    let less =
        devices(&format!("{pc}[devices]\nfw-cfg = {{ enabled = false }}\nacpi = {{ enabled = false }}\n"));
    assert_eq!(less.platform, PlatformSpec { fw_cfg: None, acpi: false, ..PlatformSpec::pc() });
    assert_eq!(less.hypercall, plain.hypercall);
}

#[test]
fn the_boot_state() {
    let boot = machine(&load(EVERY_KEY, &Overrides::new())).boot;
    assert_eq!((boot.mode, boot.ring, boot.sse), (Mode::Long, Ring::User, Some(false)));
    let first = Mapping {
        gva: Gva(0xffff_ffff_8000_0000),
        gpa: Gpa(0x1000),
        size: 64 << 10,
        access: PagePermissions { writable: false, user: false, executable: false },
    };
    // Defaults of the second: writable, executable, and for ring 3.
    let second = Mapping {
        gva: Gva(0),
        gpa: Gpa(0),
        size: 2 << 20,
        access: PagePermissions { writable: true, user: true, executable: true },
    };
    let paging = PagingSpec {
        page_size: Some(PageSize::Size4K),
        five_level: true,
        identity: false,
        maps: vec![first, second],
    };
    assert_eq!(boot.paging, paging);
    let mut registers = boot.registers;
    registers.sort();
    assert_eq!(registers, [(Register::Rdi, 0x1234), (Register::R15, u64::MAX), (Register::Rflags, 0x202)]);
}

#[test]
fn the_files() {
    let config = load(EVERY_KEY, &Overrides::new());
    assert_eq!(config.guest.path.as_path(), Path::new("dir/build/guest-long.elf"));
    assert_eq!(config.guest.kind, FileKind::Elf { base: Some(Gpa(0x10_0000)) });
    assert_eq!(machine(&config).boot.entry, Some(EntryChoice::Symbol("_start".to_owned())));
    assert_eq!(config.loading, LoadPolicy::Map);
    assert_eq!(config.loads[0].path.as_path(), Path::new("/data/blob.bin"));
    assert_eq!(config.loads[0].kind, FileKind::Flat { address: Gpa(0x5_0000) });
    assert_eq!(config.loads[1].path.as_path(), Path::new("dir/extra.elf"));
    assert_eq!(config.loads[1].kind, FileKind::Elf { base: None });
    assert_eq!(config.loads[1].key, "load.1.elf");
}

#[test]
fn the_expectations() {
    let expect = load(EVERY_KEY, &Overrides::new()).expect.unwrap();
    assert_eq!(
        (expect.end, expect.exit_code, expect.exits, expect.max_exits),
        (Some(EndKind::Exit), Some(42), Some(17), Some(100))
    );
    assert_eq!(expect.output.as_deref(), Some("Hello, world!\n"));
    assert_eq!(expect.output_contains, ["Hello", "!"]);
    assert_eq!(expect.cause, ["page fault", "not present"]);
    assert!(expect.output_regex.as_ref().unwrap().0.is_match(b"Hello, world!"));
    assert!(!expect.output_regex.unwrap().0.is_match(b"Hello, world"));
    assert_eq!(expect.registers, [(Register::Rax, 42), (Register::Rip, 0x1000)]);
    let memory = [
        ExpectedMemory {
            location: MemoryLocation::Address(Gpa(0x400)),
            bytes: vec![0x34, 0x12],
            is_number: true,
        },
        ExpectedMemory {
            location: MemoryLocation::Symbol("answer".to_owned()),
            bytes: b"abc".to_vec(),
            is_number: false,
        },
        ExpectedMemory {
            location: MemoryLocation::Address(Gpa(0x500)),
            bytes: vec![1, 255],
            is_number: false,
        },
    ];
    assert_eq!(expect.memory, memory);
}

const SMALL: &str =
    "mode = \"real\"\nmemory.size = \"1MiB\"\n\n[guest]\nflat = \"boot.bin\"\naddress = 0x7c00\n";

#[test]
fn keys_that_are_left_out_have_defaults() {
    let config = load(SMALL, &Overrides::new());
    assert_eq!(machine(&config).devices, DeviceSpecs::default());
    assert_eq!(machine(&config).limits, LimitSpec::default());
    assert_eq!(machine(&config).boot.paging, PagingSpec::default());
    assert_eq!(machine(&config).pinned, PinnedAddresses::default());
    assert_eq!(config.guest.kind, FileKind::Flat { address: Gpa(0x7c00) });
    assert_eq!(machine(&config).boot.entry, Some(EntryChoice::Address(Gva(0x7c00))));
    assert!(config.expect.is_none());
}

#[test]
fn a_test_has_a_limit_of_ten_seconds_by_default() {
    let with_expect = format!("{SMALL}\n[expect]\nend = \"halt\"\n");
    assert_eq!(machine(&load(&with_expect, &Overrides::new())).limits.time, Some(Duration::from_secs(10)));
    let mut overrides = Overrides::new();
    overrides.timeout("500ms");
    assert_eq!(machine(&load(&with_expect, &overrides)).limits.time, Some(Duration::from_millis(500)));
}

#[test]
fn overrides_replace_add_and_append() {
    let mut overrides = Overrides::new();
    overrides.mode("long");
    for assignment in [
        "memory.0.size=4MiB",
        "guest.entry = 0x7c10",
        "guest.args=[\"a=b\"]",
        "registers.rax=0x10",
        "paging.map.0.gva=0x40_0000",
        "paging.map.0.gpa=0",
        "paging.map.0.size=4KiB",
        "load.0.file=data.bin",
        "load.0.address=0x1000",
        "load.1={ file = \"more.bin\", address = 0x2000 }",
        "expect.output=Hello",
        "guest.entry=0x7c20",
    ] {
        overrides.set(assignment);
    }
    let config = load(SMALL, &overrides);
    assert_eq!(config.start.mode, Some(Mode::Long));
    assert_eq!(machine(&config).memory[0].size, 4 << 20);
    assert_eq!(machine(&config).arguments, ["a=b"]);
    assert_eq!(machine(&config).boot.registers, [(Register::Rax, 0x10)]);
    assert_eq!(machine(&config).boot.paging.maps[0].gva, Gva(0x40_0000));
    assert_eq!(config.loads[1].path.as_path(), Path::new("dir/more.bin"));
    assert_eq!(config.expect.as_ref().unwrap().output.as_deref(), Some("Hello"));
    assert_eq!(
        machine(&config).boot.entry,
        Some(EntryChoice::Address(Gva(0x7c20))),
        "the last option counts"
    );
}

/// Returns the text that an error at `key` points at.
fn pointed_at(config: &Config, key: &str) -> String {
    match config.location(key) {
        Location::Text(place) => place.source.text[place.span].to_owned(),
        Location::File(name) => format!("file {name}"),
        Location::Nowhere => String::new(),
    }
}

#[test]
fn later_errors_point_at_their_key() {
    let mut overrides = Overrides::new();
    overrides.set("layout.idt=0x2800");
    let config = load(EVERY_KEY, &overrides);
    assert_eq!(pointed_at(&config, "guest.elf"), "\"build/guest-{mode}.elf\"");
    assert_eq!(pointed_at(&config, "guest.flat"), "[guest]");
    assert_eq!(pointed_at(&config, "memory.1.size"), "0x1000");
    assert_eq!(pointed_at(&config, "paging.map.1"), "[[paging.map]]");
    assert_eq!(pointed_at(&config, "paging.map.1.gva"), "0");
    assert_eq!(pointed_at(&config, "layout.idt"), "0x2800");
    assert_eq!(pointed_at(&config, "nothing.at.all"), "file dir/vm.toml");
    // A single table is also element 0.
    assert_eq!(pointed_at(&load(SMALL, &Overrides::new()), "memory.0.size"), "\"1MiB\"");

    let error = config.error_at("layout.idt", "the IDT overlaps the GDT");
    assert_eq!(error.status.code(), 105);
    assert!(vmm_cli::diagnostic::Diagnostics::from(error).to_plain().contains("command line:1:18"));
}
