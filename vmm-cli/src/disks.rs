//! Checks the image files of virtio disks before the machine is built. Errors point at the key of the disk.

use vmm_core::devices::virtio::{DiskError, check_disk};
use vmm_core::spec::{DeviceSpecs, VirtioSpec};

use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::machine_error::with_causes;
use crate::status::Status;

/// Returns all that is wrong with the disks of a machine.
pub(crate) fn check(config: &Config, devices: &DeviceSpecs) -> Vec<Diagnostic> {
    let devices = devices.virtio.iter().enumerate();
    let problem = |(index, spec): (usize, &VirtioSpec)| match spec {
        VirtioSpec::Block(block) => check_disk(block).err().map(|error| diagnostic(config, index, &error)),
        VirtioSpec::Console { .. } | VirtioSpec::Entropy => None,
    };
    devices.filter_map(problem).collect()
}

fn diagnostic(config: &Config, index: usize, error: &DiskError) -> Diagnostic {
    if let DiskError::Outside { path, real, directory } = error {
        return config.outside(&format!("devices.virtio.{index}.file"), path, real, directory);
    }
    let key = match error {
        DiskError::OverlayExists { .. } | DiskError::Overlay { .. } => "overlay",
        DiskError::Open { .. }
        | DiskError::Outside { .. }
        | DiskError::NotAFile { .. }
        | DiskError::Size { .. }
        | DiskError::InUse { .. } => "file",
    };
    let problem = config
        .error_at(&format!("devices.virtio.{index}.{key}"), with_causes(error))
        .with_help(crate::help::for_disk(error));
    if error.is_configuration() { problem } else { Diagnostic { status: Status::Host, ..problem } }
}
