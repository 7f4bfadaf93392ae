//! The files of the configuration device (`[[devices.fw-cfg.file]]`) that have a path: read, and put where they belong.

use vmm_core::spec::MachineSpec;
use vmm_core::spec::host_file::HostFileError;

use super::file_cache::FileCache;
use super::file_errors;
use crate::config::{Config, FwCfgSource};
use crate::diagnostic::Diagnostic;

/// Gives the files of `machine` their bytes. Returns what could not be read.
pub(super) fn fill(config: &Config, reader: &FileCache, machine: &mut MachineSpec) -> Vec<Diagnostic> {
    let Some(device) = &mut machine.devices.platform.fw_cfg else { return Vec::new() };
    let mut problems = Vec::new();
    for source in &config.fw_cfg {
        match (reader.read(&source.path), device.files.get_mut(source.index)) {
            (Ok(bytes), Some(file)) => file.bytes = bytes.into_vec(),
            (Err(error), _) => problems.push(unreadable(config, source, &error)),
            (Ok(_), None) => {}
        }
    }
    problems
}

fn unreadable(config: &Config, source: &FwCfgSource, error: &HostFileError) -> Diagnostic {
    if file_errors::is_missing(error) {
        let message = format!("the file {} does not exist", source.path.display());
        return config.error_at(&source.key, message);
    }
    file_errors::cannot_read(config, &source.path, &source.key, error)
}
