//! Golden files of the format: a snapshot that the format's version has once written, and the identity of machines in which
//! every key occurs. They are written once for each [`VERSION`] and never changed, except that a new device adds its keys to the
//! identity: any other change needs a new version.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::config::{Config, EntryChoice, Overrides};
use vmm_core::spec::{EntryPoint, MachineSpec};
use vmm_core::{Gva, encoding};

use super::identity::Identity;
use super::{Description, HEAD, Saved, UNCHECKED, VERSION, checksum};
use crate::prepare::Prepared;

/// Directory of the golden files, one of each kind for the present version.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

const EVERYTHING: [(&str, &str); 4] = [
    (
        "long",
        r#"
mode = "long"
ring = 3
unmapped = "stop"
vcpus = 2
interrupts = "pc"
tss-address = 0xfff0_0000
sse = true
cpuid = { hide = ["cx16", "xsave"], set = ["smep"] }
[[memory]]
size = "2MiB"
mergeable = false
[[memory]]
size = "4MiB"
address = 0x100_0000
read-only = true
backing = "hugetlb"
huge-pages = true
[guest]
flat = "a.bin"
address = 0x8000
stack = 0x8_0000
args = ["one", "a \"b\"\n"]
[paging]
page-size = "2MiB"
five-level = true
identity = true
[[paging.map]]
gva = "0xffff_ffff_8000_0000"
gpa = 0
size = "2MiB"
user = true
[[paging.map]]
gva = 0x4000_0000
gpa = 0x1000
size = "12KiB"
writable = false
executable = false
[layout]
stack-size = "16KiB"
gdt = 0x1000
idt = 0x2000
tss = 0x3000
page-tables = 0x1_0000
[registers]
rdi = 1
r15 = "0xffff_ffff_ffff_ffff"
[devices]
debug-console = { mmio = 0xe000_0000 }
serial = { port = 0x2f8, input = false }
debug-exit = { success = [0, 7] }
hypercall = { port = 0x700 }
kvm-testdev = {}
[[devices.fw-cfg.file]]
name = "opt/a"
text = "hello"
[[devices.virtio]]
type = "block"
file = "/disk"
[[devices.virtio]]
type = "block"
file = "/disk"
overlay = true
[[devices.virtio]]
type = "block"
file = "/disk"
overlay = "/new"
[[devices.virtio]]
type = "block"
file = "/disk"
writable = true
[[devices.virtio]]
type = "console"
input = true
[[devices.virtio]]
type = "entropy"
"#,
    ),
    (
        "real",
        r#"
mode = "real"
memory = { size = "64KiB", backing = "memfd" }
guest = { flat = "a.bin", address = 0x7c00, entry = "0:0x7c00" }
devices.debug-console.collect = true
devices.serial.enabled = false
"#,
    ),
    (
        "linux",
        r#"
boot = "linux"
mode = "protected"
memory.size = "3073MiB"
guest = { file = "kernel" }
cpuid = "host"
interrupts = "split"
"#,
    ),
    (
        "pae",
        r#"
mode = "pae"
memory = { size = "8GiB", huge-pages = false }
guest = { flat = "a.bin", address = 0x7c00 }
registers.eax = 7
cpuid = "none"
"#,
    ),
];

fn config(text: &str, overrides: &Overrides) -> Config {
    Config::from_text(text, Path::new("/a.toml"), overrides).unwrap()
}

/// Machine of a configuration. An entry that is left to the guest's file is at 0.
fn machine(config: &Config) -> MachineSpec {
    let start = config.start.complete().unwrap();
    let machine = config.machine(start).unwrap();
    let entry = match machine.boot.entry {
        Some(EntryChoice::Address(address)) => EntryPoint::Address(address),
        Some(EntryChoice::Segmented { segment, offset }) => EntryPoint::Segmented { segment, offset },
        None | Some(EntryChoice::Symbol(_)) => EntryPoint::Address(Gva(0)),
    };
    machine.with_entry(entry)
}

fn identity(text: &str, overrides: &Overrides) -> Identity {
    Identity::new(&machine(&config(text, overrides)))
}

/// Returns the name of the device that a line of an identity is about.
fn device(line: &str) -> Option<&str> {
    line.strip_prefix("devices.")?.split('.').next()
}

/// Compares with a golden file that is written with `UPDATE_GOLDEN=1`: once, and again when there is a new device.
#[test]
fn a_changed_identity_has_a_new_version() {
    let path = directory().join(format!("identity-{VERSION}.txt"));
    let parts = EVERYTHING.map(|(name, text)| format!("# {name}\n{}", identity(text, &Overrides::new())));
    let found = parts.join("\n");
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    match fs::read_to_string(&path) {
        Ok(golden) if golden == found => {}
        Ok(golden) => {
            let devices: BTreeSet<&str> = golden.lines().filter_map(device).collect();
            let is_new = |line: &&str| device(line).is_some_and(|name| !devices.contains(name));
            let of_known: String = found.split_inclusive('\n').filter(|line| !is_new(line)).collect();
            assert!(
                golden == of_known,
                "the identity of machines has changed: raise `snapshot_file::VERSION`, then run with UPDATE_GOLDEN=1\n{found}"
            );
            assert!(update, "there is a new device: run with UPDATE_GOLDEN=1\n{found}");
            fs::write(&path, found).unwrap();
        }
        Err(_) if update => fs::write(&path, found).unwrap(),
        Err(error) => panic!("{}: {error}: run with UPDATE_GOLDEN=1", path.display()),
    }
}

#[test]
fn only_the_present_version_has_golden_files() {
    let names = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    let ours = [format!("format-{VERSION}.snap"), format!("identity-{VERSION}.txt")];
    assert_eq!(names, [&ours[0], "golden.toml", "guest.bin", &ours[1]], "remove those of older versions");
}

/// Each line can be given to `--set`, and the machine stays what it is.
#[test]
fn the_keys_and_values_are_those_of_configurations() {
    for (name, text) in EVERYTHING {
        let whole = identity(text, &Overrides::new());
        for line in whole.to_string().lines() {
            // These say more than the configuration does, name a register or a table in another way, or come from the file.
            let others = [
                r#"boot = not "linux""#,
                "guest.entry = 0x0",
                "devices.fw-cfg.file.",
                "memory.0.huge-pages = true, and false from 4 GiB on",
                "registers.rax",
                r#"cpuid = "host""#,
            ];
            if others.iter().any(|other| line.starts_with(other)) {
                continue;
            }
            let mut overrides = Overrides::new();
            overrides.set(line);
            assert_eq!(identity(text, &overrides), whole, "{name}: {line}");
        }
    }
}

/// The message of a difference between two configurations, and where it points.
fn difference(then: &str, now: &str) -> Option<(String, Option<String>)> {
    let now = config(now, &Overrides::new());
    let difference = identity(then, &Overrides::new()).difference(&Identity::new(&machine(&now)), &now)?;
    let crate::diagnostic::Location::Text(place) = &difference.location else {
        return Some((difference.to_string(), None));
    };
    let text = place.source.text.get(place.span.clone()).unwrap();
    Some((difference.to_string(), Some(text.to_owned())))
}

#[test]
fn a_difference_has_key_values_and_place() {
    let base = "mode = \"long\"\nguest = { flat = \"a.bin\", address = 0x8000 }\n";
    let with = |more: &str| format!("{base}{more}\n");
    let memory = with("memory.size = \"2MiB\"");
    for (then, now, message, place) in [
        (
            "memory.size = \"2MiB\"",
            "memory.size = \"4MiB\"",
            r#"`memory.size` was "2MiB" then and is "4MiB" now"#,
            Some("\"4MiB\""),
        ),
        (
            "memory.size = \"2MiB\"",
            "[[memory]]\nsize = \"2MiB\"\n[[memory]]\nsize = \"8MiB\"\naddress = 0x100_0000",
            r#"`memory.1.size` was not there then and is "8MiB" now"#,
            Some("\"8MiB\""),
        ),
        (
            "memory.size = \"2MiB\"\nmemory.mergeable = false",
            "memory.size = \"2MiB\"",
            "`memory.mergeable` was false then and has its default now, true",
            Some("memory"),
        ),
        (
            "memory.size = \"2MiB\"\nlayout.gdt = 0x1000",
            "memory.size = \"2MiB\"",
            "`layout.gdt` was 0x1000 then and is not there now",
            None,
        ),
        // With an address it has no hole.
        (
            "memory.size = \"3073MiB\"\nmemory.huge-pages = true",
            "memory = { size = \"3073MiB\", address = 0, huge-pages = true }",
            "`memory.address` was not there then and is 0x0 now",
            Some("0"),
        ),
        // The key that the file sets, not that which follows from it.
        (
            "memory.size = \"2MiB\"",
            "memory.size = \"2MiB\"\ndevices.serial.mmio = 0xe000_0000",
            "`devices.serial.mmio` was not there then and is 0xe0000000 now",
            Some("0xe000_0000"),
        ),
        (
            "memory.size = \"2MiB\"\nregisters.rax = 1",
            "memory.size = \"2MiB\"\nregisters.eax = 2",
            "`registers.rax` was 0x1 then and is 0x2 now",
            Some("2"),
        ),
    ] {
        let (then, now) = (with(then), with(now));
        let (found, at) = difference(&then, &now).unwrap();
        assert_eq!(found, message);
        assert_eq!(at.as_deref(), place, "{message}");
    }
    assert_eq!(
        difference(&memory, &with("memory.size = \"2MiB\"\nlimits.exits = 7\nreset = \"success\"")),
        None
    );
}

#[test]
fn a_device_that_an_earlier_version_did_not_know_is_absent() {
    let text = |rtc| {
        format!(
            "mode = \"long\"\nguest = {{ flat = \"a.bin\", address = 0x8000 }}\nmemory.size = \"2MiB\"\ndevices.rtc.enabled = {rtc}\n"
        )
    };
    let difference = |rtc| {
        let config = config(&text(rtc), &Overrides::new());
        let now = Identity::new(&machine(&config));
        let (then, back) =
            (now.without("devices.rtc."), now.difference(&now.without("devices.rtc."), &config));
        assert_eq!(back.is_some(), rtc);
        then.difference(&now, &config).map(|difference| difference.to_string())
    };
    assert_eq!(difference(false), None);
    assert_eq!(difference(true).unwrap(), "`devices.rtc.enabled` was not there then and is true now");
}

/// A description that is longer than this version's is not taken for one, even if its checksum is right.
#[test]
fn bytes_behind_the_description_are_refused() {
    let mut bytes = fs::read(directory().join(format!("format-{VERSION}.snap"))).unwrap();
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    bytes.insert(HEAD + usize::try_from(length).unwrap(), 0);
    bytes[16..24].copy_from_slice(&(length + 1).to_le_bytes());
    let sum = crc32fast::hash(&bytes[UNCHECKED..]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("longer.snap");
    fs::write(&path, bytes).unwrap();
    let message = Saved::open(&path).err().unwrap().message;
    assert_eq!(message, "the snapshot was written by another version of vmm-cli");
}

/// Reads the golden snapshot, and finds in it what was put there.
#[test]
fn the_golden_snapshot_is_read() {
    let path = directory().join(format!("format-{VERSION}.snap"));
    assert!(
        path.exists(),
        "{} is missing: run `cargo test -p vmm-cli --test snapshot -- --include-ignored` with UPDATE_GOLDEN=1",
        path.display()
    );
    let changed = "the saved form has changed: raise `snapshot_file::VERSION`";
    let saved = Saved::open(&path).unwrap_or_else(|error| panic!("{changed}: {error:?}"));
    let config_now = Config::load(&directory().join("golden.toml"), &Overrides::new()).unwrap();
    let prepared = Prepared::new(&config_now).unwrap();

    let bytes = fs::read(&path).unwrap();
    let description = encoding::to_bytes(&saved.description).unwrap();
    assert_eq!(bytes.get(HEAD..HEAD + description.len()).unwrap(), description, "{changed}");

    let Description { program, config, point, host, machine, files, printed, cpuid, state } =
        &saved.description;
    assert!(program.starts_with("vmm-cli "), "{changed}: {program}");
    assert!(config.ends_with("golden.toml"), "{changed}: {}", config.display());
    assert_eq!(point, "after 3 exits", "{changed}");
    assert!(host.kvm.starts_with("kvm_"), "{changed}: {host:?}");
    if let Some(difference) = machine.difference(&Identity::new(&prepared.machine), &config_now) {
        panic!("{changed}, or leave a new device out in golden.toml: {difference}");
    }
    assert_eq!(*files, checksum(&prepared.files), "{changed}");
    assert_eq!(printed, b"abc", "{changed}");
    assert!(cpuid.is_none(), "{changed}");
    let rax: Vec<u64> = state.vcpus().map(|vcpu| vcpu.regs.rax & 0xff).collect();
    assert_eq!(rax, [u64::from(b'c')], "{changed}");

    let memory = saved.memory(&prepared.machine).unwrap();
    let mut code = [0; 4];
    memory.read(vmm_core::Gpa(0x7c00), &mut code).unwrap();
    assert_eq!(code, [0xb0, b'a', 0xe6, 0xe9], "{changed}");
}
