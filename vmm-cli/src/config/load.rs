//! Reads the file that the user names: a configuration, or a kernel without one.
//!
//! A file whose name ends in `.toml` is a configuration. Any other file is a configuration if it parses as TOML, and
//! otherwise a kernel, whose configuration is an ELF note ([`vmm_loader::config_note`]) or a default of two lines.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use toml::de::DeTable;
use vmm_core::kvm_sys_wrap::MappedFile;

use super::note::NoteOrigin;
use super::overrides::Overrides;
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

/// Maximum size of a configuration in bytes. It keeps `/dev/zero`, or a guest given by mistake, from filling memory.
const MAX_SIZE: u64 = 1 << 20;

/// Memory of a machine without a configuration.
const DEFAULT_MEMORY: &str = "256MiB";

/// Text of a configuration, by its origin.
#[derive(Debug)]
pub(super) enum Loaded {
    /// Configuration file.
    Configuration(String),
    /// Note in an ELF file.
    Noted(Note),
    /// Generated text for a kernel without a configuration.
    Kernel(String),
}

/// Configuration inside an ELF file.
#[derive(Debug)]
pub(super) struct Note {
    /// Text of the note.
    pub(super) text: String,
    /// Keys that the note need not contain.
    pub(super) implied: Overrides,
    /// Origin of the note.
    pub(super) origin: NoteOrigin,
}

/// Reads the file at `path`.
pub(super) fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    let name = path.display().to_string();
    let refuse = |status, message: String, help: Option<&str>| {
        Diagnostics::from(Diagnostic::error(status, message).at(Location::File(name.clone())).with_help(help))
    };
    let is_named_so = path.extension().is_some_and(|extension| extension == "toml");
    let mut bytes = Vec::new();
    let mut is_regular = false;
    let read = File::open(path).and_then(|file| {
        is_regular = file.metadata()?.is_file();
        file.take(MAX_SIZE.saturating_add(1)).read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        let kind = error.kind();
        let (status, help) = if kind == ErrorKind::NotFound {
            (Status::Configuration, Some("`vmm-cli init` writes one to start from"))
        } else if kind == ErrorKind::IsADirectory {
            (Status::Configuration, Some("name a TOML file in it"))
        } else {
            (Status::Host, None)
        };
        return Err(refuse(status, format!("cannot read the configuration: {error}"), help));
    }
    if is_regular && !is_named_so && !is_toml(&bytes) {
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
            let help = Some("rename the file, or write a configuration for it");
            return Err(refuse(Status::Configuration, "the file's name is not UTF-8".to_owned(), help));
        };
        let unreadable = |error: io::Error| {
            refuse(Status::Host, format!("cannot look for a configuration in it: {error}"), None)
        };
        let Some(text) = note(path, &bytes).map_err(unreadable)? else {
            return Ok(Loaded::Kernel(kernel_defaults(file)));
        };
        let origin = NoteOrigin::new(path).map_err(unreadable)?;
        let real_name = origin.file().file_name().and_then(|name| name.to_str()).unwrap_or(file);
        let implied = note_overrides(&text, real_name);
        return Ok(Loaded::Noted(Note { text, implied, origin }));
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_SIZE) {
        let what = if is_regular { "it is larger" } else { "it is no regular file, and has more" };
        return Err(refuse(
            Status::Configuration,
            format!("this is no configuration: {what} than 1 MiB"),
            Some("a kernel can be given in place of a configuration if its name does not end in `.toml`"),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        refuse(
            Status::Configuration,
            format!("this is no TOML file: byte {offset} is not UTF-8"),
            Some("a kernel can be given in place of a configuration if its name does not end in `.toml`"),
        )
    })?;
    Ok(Loaded::Configuration(text))
}

/// Returns true if the whole file parses as TOML and is not empty. A script can consist of TOML comments.
fn is_toml(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_SIZE)
        && DeTable::parse(text).is_ok_and(|table| !table.get_ref().is_empty())
}

/// Returns the text of the note in the file; `None` if it has none. `start` holds the first bytes of the file. A larger file
/// is mapped, so that only the pages that the search reads are loaded.
fn note(path: &Path, start: &[u8]) -> io::Result<Option<String>> {
    if !vmm_loader::is_elf(start) {
        return Ok(None);
    }
    let is_whole = u64::try_from(start.len()).is_ok_and(|length| length <= MAX_SIZE);
    let mapped = if is_whole { None } else { MappedFile::new(File::open(path)?, path)? };
    let found = vmm_loader::config_note(mapped.as_ref().map_or(start, MappedFile::bytes));
    let text = found.map(|note| String::from_utf8_lossy(note).into_owned());
    if let Some(mapped) = &mapped {
        mapped.check().map_err(io::Error::other)?;
    }
    Ok(text)
}

/// Returns the keys that a configuration in a kernel need not contain: the guest's file and the size of its memory.
pub(super) fn note_overrides(text: &str, file: &str) -> Overrides {
    let mut implied = Overrides::new();
    implied.implied("guest.file", file);
    if !DeTable::parse_recoverable(text).0.get_ref().contains_key("memory") {
        implied.implied("memory.size", DEFAULT_MEMORY);
    }
    implied
}

/// The configuration of a kernel that comes without one: all is left to the file, and to defaults.
fn kernel_defaults(file: &str) -> String {
    let file = toml::Value::String(file.to_owned());
    format!("memory = {{ size = \"{DEFAULT_MEMORY}\" }}\nguest = {{ file = {file} }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let missing = load(&directory.path().join("none.toml")).unwrap_err();
        assert_eq!(missing.status(), Status::Configuration);
        assert_eq!(load(directory.path()).unwrap_err().status(), Status::Configuration);

        let binary = directory.path().join("guest.toml");
        std::fs::write(&binary, b"ab\xff").unwrap();
        assert_eq!(load(&binary).unwrap_err().0[0].message, "this is no TOML file: byte 2 is not UTF-8");

        let endless = load(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(
            endless.0[0].message,
            "this is no configuration: it is no regular file, and has more than 1 MiB"
        );
    }

    #[test]
    fn a_file_is_a_configuration_by_its_name_or_by_its_contents() {
        let directory = tempfile::tempdir().unwrap();
        let load_as = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            load(&path).unwrap()
        };
        for (name, text) in [("a.toml", "mode = \"long\"\n"), ("b.toml", "mode"), ("c", "mode = \"long\"\n")]
        {
            assert!(
                matches!(load_as(name, text.as_bytes()), Loaded::Configuration(read) if read == text),
                "{name}"
            );
        }
        for (name, bytes) in
            [("kernel.elf", &b"\x7fELF"[..]), ("notes", b"just text"), ("s", b"#!/bin/sh\n"), ("e", b"")]
        {
            let Loaded::Kernel(text) = load_as(name, bytes) else { panic!("{name} is a configuration") };
            let table: toml::Table = toml::from_str(&text).unwrap();
            assert_eq!(table["guest"]["file"].as_str(), Some(name));
        }
    }
}
