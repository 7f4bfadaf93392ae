//! A guest's files, and what is said when one is not there or not of the right kind.

use std::path::Path;

use vmm_core::spec::HostFile;
use vmm_core::spec::host_file::HostFileError;
use vmm_core::spec::mode::Mode;
use vmm_loader::{ElfClass, ElfOptions, LoadError, elf, flat};

use super::file_bytes::FileBytes;
use super::file_cache::FileCache;
use super::files::LoadedFile;
use crate::config::{Config, File, FileKind};
use crate::diagnostic::Diagnostic;
use crate::status::Status;

/// Reads and plans one file of `[[load]]`.
pub(super) fn extra(
    config: &Config,
    reader: &FileCache,
    file: &File,
    mode: Option<Mode>,
) -> Result<LoadedFile, Diagnostic> {
    let bytes = bytes(config, reader, file, mode)?;
    let plan = match file.kind {
        FileKind::Elf { base } => {
            let options = ElfOptions::default().with_base(base.map(Into::into));
            elf::plan(&bytes, &options).map_err(LoadError::from)
        }
        FileKind::Flat { address } => flat::plan(&bytes, address.into()).map_err(LoadError::from),
    };
    unchanged(config, file, &bytes)?;
    let plan = plan.map_err(|error| {
        let message = format!("{}: {error}", file.path.display());
        config.error_at(&file.key, message).with_help(error.help())
    })?;
    if let Some(mode) = mode {
        check_class(config, file, mode, plan.class())?;
    }
    Ok(LoadedFile::new(name(file.path.as_path()), bytes, plan))
}

/// The bytes of a file.
pub(super) fn bytes(
    config: &Config,
    reader: &FileCache,
    file: &File,
    mode: Option<Mode>,
) -> Result<FileBytes, Diagnostic> {
    let File { path, key, .. } = file;
    reader.read(path).map_err(|error| unreadable(config, path, key, mode, &error))
}

/// To be asked when a file has been looked through: what is wrong with one that somebody writes to meanwhile is just that.
pub(super) fn unchanged(config: &Config, file: &File, bytes: &FileBytes) -> Result<(), Diagnostic> {
    bytes.check().map_err(|error| {
        let problem = config.error_at(&file.key, error.to_string()).with_help(crate::help::for_kvm(&error));
        Diagnostic { status: Status::Host, ..problem }
    })
}

/// Returns the name of a file in messages and maps: its name without directories.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into())
}

pub(super) fn unreadable(
    config: &Config,
    file: &HostFile,
    key: &str,
    mode: Option<Mode>,
    error: &HostFileError,
) -> Diagnostic {
    if !is_missing(error) {
        return cannot_read(config, file, key, error);
    }
    let (path, shown) = (file.as_path(), file.display());
    let built_here = path.parent().is_some_and(|directory| directory.ends_with("guests/build"));
    let siblings = siblings(path, mode);
    let help = match (siblings.is_empty(), built_here) {
        (false, _) => format!("there is {}", siblings.join(", ")),
        (true, true) => "build it: `cargo xtask guests`".to_owned(),
        (true, false) => "build the guest first, or correct the path".to_owned(),
    };
    config.error_at(key, format!("the guest file {shown} does not exist")).with_help(Some(help))
}

/// Returns true if there is no such file.
pub(super) fn is_missing(error: &HostFileError) -> bool {
    matches!(error, HostFileError::Io(error) if error.kind() == std::io::ErrorKind::NotFound)
}

/// Returns the error of a file that is there.
pub(super) fn cannot_read(config: &Config, file: &HostFile, key: &str, error: &HostFileError) -> Diagnostic {
    if let HostFileError::Outside { real, directory } = error {
        return config.outside(key, file.as_path(), real, directory);
    }
    let problem = config.error_at(key, format!("cannot read {}: {error}", file.display()));
    if error.is_configuration() { problem } else { Diagnostic { status: Status::Host, ..problem } }
}

/// An ELF file must have the width of the mode's code.
pub(super) fn check_class(
    config: &Config,
    File { path, key, .. }: &File,
    mode: Mode,
    class: Option<ElfClass>,
) -> Result<(), Diagnostic> {
    let Some(class) = class else { return Ok(()) };
    let fits = match class {
        ElfClass::Elf32 => mode.bits() <= 32,
        ElfClass::Elf64 => mode.bits() == 64,
    };
    if fits {
        return Ok(());
    }
    let (has, flag) = match class {
        ElfClass::Elf32 => ("32-bit", "mode = \"protected\" (or real, paged, pae)"),
        ElfClass::Elf64 => ("64-bit", "mode = \"long\""),
    };
    let message = format!("{} holds {has} code, which cannot run in mode {mode}", path.display());
    let siblings = siblings(path.as_path(), Some(mode));
    let help = if siblings.is_empty() {
        let bits = if mode.bits() == 64 { "-m64" } else { "-m32" };
        format!("use {flag}, or build the guest with {bits}")
    } else {
        format!("for this mode there is {}", siblings.join(", "))
    };
    Err(config.error_at(key, message).with_help(Some(help)))
}

/// Returns builds of the same guest for `mode` beside a file, such as `hello-pae.elf` beside `hello-long.elf`. If there
/// is none, or the mode is not known, returns those for all modes.
fn siblings(path: &Path, mode: Option<Mode>) -> Vec<String> {
    let Some((stem, extension)) = path.file_stem().zip(path.extension()) else { return Vec::new() };
    let (stem, extension) = (stem.to_string_lossy(), extension.to_string_lossy());
    let base =
        Mode::ALL.iter().find_map(|mode| stem.strip_suffix(mode.name())?.strip_suffix('-')).unwrap_or(&stem);
    let build = |mode: Mode| path.with_file_name(format!("{base}-{mode}.{extension}"));
    let existing = |modes: &[Mode]| -> Vec<String> {
        let files = modes.iter().map(|mode| build(*mode)).filter(|file| file != path && file.exists());
        files.map(|file| file.display().to_string()).collect()
    };
    let own = existing(mode.as_slice());
    if own.is_empty() { existing(&Mode::ALL) } else { own }
}
