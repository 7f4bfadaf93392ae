//! Any text as a configuration, in a file and in a note.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use vmm_core::spec::mode::Mode;
use vmm_core::spec::{BlockAccess, HostFile, VirtioSpec};
use vmm_loader::boot::Protocol;

use super::note::{NoteOrigin, NotePolicy};
use super::{Config, MachineTemplate, Overrides, Start, load};
use crate::diagnostic::{Diagnostics, Location, json};

/// Checks a configuration. What follows a NUL are `--set` options, one a line.
pub fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (file, options) = text.split_once('\0').unwrap_or((text, ""));
    let mut overrides = Overrides::new();
    options.lines().for_each(|assignment| overrides.set(assignment));
    let path = Path::new("/directory/fuzz.toml");
    let config = match Config::from_text(file, path, &overrides) {
        Ok(config) => config,
        Err(mistakes) => return check_mistakes(&mistakes),
    };
    let start = start(&config, bytes.len());
    let machine = config.machine(start);
    if let Err(mistakes) = &machine {
        check_mistakes(mistakes);
    }
    for key in ["mode", "memory.0.size", "guest.entry", "devices.virtio.1.file", ""] {
        check_location(&config.location(key));
    }

    // An option can set what a file cannot say.
    if !options.is_empty() {
        return;
    }
    let table: toml::Table = file.parse().unwrap();
    let printed = toml::to_string(&table).unwrap();
    match Config::from_text(&printed, path, &overrides) {
        Ok(again) => {
            let (one, two) = (shown(&config, machine.ok()), shown(&again, again.machine(start).ok()));
            assert!(one == two, "printed, it is another configuration:\n{one}\n{two}\n{printed}");
        }
        Err(mistakes) => unreachable!("printed, it is refused: {mistakes}\n{printed}"),
    }
}

/// Checks a configuration inside an ELF file, which whoever made the file wrote.
pub fn note(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (file, origin) = elf_file();
    let overrides = Overrides::new().with_notes(NotePolicy::Confine);
    let name = file.file_name().and_then(|name| name.to_str()).unwrap();
    let implied = load::note_overrides(&text, name).and(&overrides);
    let config = match Config::from_note(&text, file, &implied, origin.clone()) {
        Ok(config) => config,
        Err(mistakes) => return check_mistakes(&mistakes),
    };
    let directory = origin.confinement().unwrap();
    let check = |named: &HostFile| {
        let is_confined = *named == HostFile::inside(named.as_path(), directory);
        assert!(is_confined || named.as_path() == *file, "{} is not confined", named.display());
    };
    config.files().for_each(check);
    check(&config.input_file());
    let Ok(machine) = config.machine(start(&config, bytes.len())) else { return };
    for device in &machine.devices.virtio {
        let VirtioSpec::Block(block) = device else { continue };
        check(&block.image);
        assert!(
            matches!(block.access, BlockAccess::ReadOnly | BlockAccess::Temporary),
            "a note with a disk that is written: {:?}",
            block.access
        );
    }
    assert!(
        machine.memory.iter().all(|region| !region.overcommit),
        "a note with more memory than the host has"
    );
    let shows_host = machine.devices.hypercall.is_some_and(|hypercall| hypercall.host_addresses);
    assert!(!shows_host, "a note with host addresses");
}

/// Returns an ELF file to be, and its origin.
fn elf_file() -> &'static (PathBuf, NoteOrigin) {
    static FILE: OnceLock<(PathBuf, NoteOrigin)> = OnceLock::new();
    FILE.get_or_init(|| {
        // It is resolved, but never read.
        let file = PathBuf::from("/proc/version");
        let origin = NoteOrigin::new(&file).unwrap();
        (file, origin)
    })
}

/// Returns the start that the configuration names. What it leaves to the file is chosen by `number`.
fn start(config: &Config, number: usize) -> Start {
    let protocol = Protocol::ALL.get(number % Protocol::ALL.len()).copied();
    let mode = Mode::ALL.get(number / 7 % Mode::ALL.len()).copied();
    Start { protocol: config.start.protocol.or(protocol).unwrap(), mode: config.start.mode.or(mode).unwrap() }
}

/// Returns what two equal configurations have in common: all but spans.
fn shown(config: &Config, machine: Option<MachineTemplate>) -> String {
    let Config {
        start,
        guest,
        command_line,
        modules,
        loads,
        fw_cfg,
        loading,
        expect,
        test,
        machine: _,
        document: _,
        texts: _,
    } = config;
    format!(
        "{start:?} {guest:?} {command_line:?} {modules:?} {loads:?} {fw_cfg:?} {loading:?} {expect:?} {test:?} {machine:?}"
    )
}

fn check_mistakes(mistakes: &Diagnostics) {
    assert!(!mistakes.0.is_empty());
    for mistake in &mistakes.0 {
        assert!(!mistake.message.is_empty());
        check_location(&mistake.location);
    }
    // Each takes longer than all that was before.
    match mistakes.0.first().map_or(0, |mistake| mistake.message.len() % 8) {
        0 => assert!(!mistakes.to_styled().is_empty()),
        1 | 2 => assert!(!mistakes.to_plain().is_empty()),
        3 => assert!(!json::render(mistakes).is_empty()),
        _ => {}
    }
}

fn check_location(location: &Location) {
    if let Location::Text(place) = location {
        assert!(
            place.source.text.get(place.span.clone()).is_some(),
            "{:?} is no part of the text",
            place.span
        );
    }
}
