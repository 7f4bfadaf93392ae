//! The files of the configuration device (`[[devices.fw-cfg.file]]`) that have a path: read, and put where they belong.

use std::io;

use vmm_core::spec::MachineSpec;

use super::file_cache::FileCache;
use crate::config::{Config, FwCfgSource};
use crate::diagnostic::Diagnostic;
use crate::status::Status;

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

fn unreadable(config: &Config, source: &FwCfgSource, error: &io::Error) -> Diagnostic {
    let shown = source.path.display();
    if error.kind() == io::ErrorKind::NotFound {
        return config.error_at(&source.key, format!("the file {shown} does not exist"));
    }
    let problem = config.error_at(&source.key, format!("cannot read {shown}: {error}"));
    Diagnostic { status: Status::Host, ..problem }
}
