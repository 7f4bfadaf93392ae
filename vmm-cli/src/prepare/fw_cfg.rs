//! The files of the configuration device (`[[devices.fw-cfg.file]]`) that have a path: read, and put where they belong.

use vmm_cli::config::Config;
use vmm_cli::diagnostic::Diagnostic;
use vmm_core::spec::MachineSpec;

use super::read::{read, unreadable};

/// Gives the files of `machine` their bytes. Returns what could not be read.
pub(super) fn fill(config: &Config, machine: &mut MachineSpec) -> Vec<Diagnostic> {
    let Some(device) = &mut machine.devices.platform.fw_cfg else { return Vec::new() };
    let mut problems = Vec::new();
    for source in &config.fw_cfg {
        match (read(&source.path), device.files.get_mut(source.index)) {
            (Ok(bytes), Some(file)) => file.bytes = bytes,
            (Err(error), _) => problems.push(unreadable(config, &source.path, &source.key, &error)),
            (Ok(_), None) => {}
        }
    }
    problems
}
