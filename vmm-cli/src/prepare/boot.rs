//! Starting a guest by the protocol that it asks for: what `vmm_loader::boot` works out, put into the machine.
//!
//! The loader knows widths of code and registers by name; here they become a CPU mode and the registers of `[registers]`,
//! which still win over those of the protocol. What a kernel is handed goes into memory like files of the guest's.

use vmm_core::Gpa;
use vmm_core::firmware;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{MachineSpec, Register, virtio};
use vmm_loader::boot::{self, BootError, BootHandoff, BootInfo, BootOptions, BootPlan, Protocol, Rsdp};
use vmm_loader::{ElfOptions, NamedRange, flat};

use super::boot_help;
use super::file_bytes::FileBytes;
use super::file_cache::FileCache;
use super::file_errors;
use super::files::LoadedFile;
use crate::config::{Config, FileKind, Module, Start};
use crate::diagnostic::{Diagnostic, Severity};
use crate::status::Status;

/// The command line of a Linux kernel that is given none: else it would print where nobody looks.
const LINUX_COMMAND_LINE: &str = "console=ttyS0";

/// Description of the start of a guest, for `explain`.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// Reason of the choice of the protocol.
    pub(crate) reason: &'static str,
    /// Protocols of the file, the best first. Empty if the file was not examined.
    pub(crate) candidates: Vec<String>,
    /// Boot information for the kernel, line by line.
    pub(crate) boot_info: Vec<String>,
    /// The registers that the protocol sets.
    pub(crate) registers: Vec<Register>,
}

/// The guest's file, planned.
pub(super) struct Planned {
    pub(super) plan: BootPlan,
    pub(super) mode: Mode,
    pub(super) boot: Boot,
}

impl Planned {
    /// Returns the protocol and the mode that the guest is started with.
    pub(super) fn start(&self) -> Start {
        Start { protocol: self.plan.protocol, mode: self.mode }
    }
}

/// Finds out how to start the file, as far as the configuration leaves that open, and plans it.
pub(super) fn plan(config: &Config, bytes: &[u8]) -> Result<Planned, Diagnostic> {
    let file = &config.guest;
    let fail = |error: BootError| {
        let message = format!("{}{error}", config.guest_prefix());
        config.error_at(&file.key, message).with_help(boot_help::help(&error))
    };
    let (protocol, reason, candidates) = match (config.start.protocol, config.start.mode) {
        (Some(protocol), Some(_)) if protocol.is_plain() => (protocol, "`mode` is given", Vec::new()),
        (Some(protocol), _) => (protocol, "`boot` names it", boot::detect(bytes).describe()),
        (None, _) => {
            let findings = boot::detect(bytes);
            let candidates = findings.describe();
            (findings.choose().map_err(fail)?, "the first in the order of choice", candidates)
        }
    };
    let options = match file.kind {
        FileKind::Elf { base } => {
            BootOptions::default().with_elf(ElfOptions::default().with_base(base.map(Into::into)))
        }
        FileKind::Flat { address } => BootOptions::default().with_address(address.into()),
    };
    let plan = boot::plan(bytes, protocol, &options).map_err(fail)?;
    let asked = plan.width.map(Mode::from_entry_width);
    let mode = match (config.start.mode, asked) {
        (Some(mode), Some(asked)) if !protocol.is_plain() && mode != asked => {
            let message =
                format!("{}this kernel is entered in {asked} mode, not {mode}", config.guest_prefix());
            return Err(config.error_at("mode", message).with_help(Some("leave `mode` out")));
        }
        (Some(mode), _) | (None, Some(mode)) => mode,
        // Only a flat binary has no width, and its configuration names a mode.
        (None, None) => Mode::Long,
    };
    Ok(Planned {
        plan,
        mode,
        boot: Boot { protocol, reason, candidates, boot_info: Vec::new(), registers: Vec::new() },
    })
}

/// A module's file, read.
pub(super) struct ReadModule<'a> {
    module: &'a Module,
    name: String,
    bytes: FileBytes,
}

/// Reads the files that the kernel is told of.
pub(super) fn modules<'a>(
    config: &'a Config,
    reader: &FileCache,
    mode: Option<Mode>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<ReadModule<'a>> {
    let read = |module: &'a Module| match reader.read(&module.path) {
        Ok(bytes) => Ok(ReadModule { module, name: file_errors::name(module.path.as_path()), bytes }),
        Err(error) => Err(file_errors::unreadable(config, &module.path, &module.key, mode, &error)),
    };
    let mut files = Vec::new();
    for result in config.modules.iter().map(read) {
        match result {
            Ok(file) => files.push(file),
            Err(problem) => problems.push(problem),
        }
    }
    files
}

/// Tells the kernel of its machine: the guest's file with all that goes into memory beside it. Sets the registers.
pub(super) fn plan_handoff(
    config: &Config,
    machine: &mut MachineSpec,
    (bytes, plan): (FileBytes, BootPlan),
    modules: Vec<ReadModule<'_>>,
    loads: &[LoadedFile],
    boot: &mut Boot,
) -> Result<Vec<LoadedFile>, Diagnostic> {
    let name = file_errors::name(config.guest.path.as_path());
    if plan.protocol.is_plain() {
        return Ok(vec![LoadedFile::new(name, bytes, plan.image)]);
    }
    let map = firmware::memory_map(machine);
    let taken: Vec<NamedRange> = loads.iter().flat_map(|file| file.plan.ranges()).collect();
    let rsdp = rsdp(machine);
    let command_line = command_line(config, machine, plan.is_linux);
    let for_modules: Vec<boot::BootModule<'_>> = modules
        .iter()
        .map(|file| {
            let size = u64::try_from(file.bytes.len()).unwrap_or(u64::MAX);
            boot::BootModule::new(size, file.module.command_line.as_deref().unwrap_or(&file.name))
        })
        .collect();
    let boot_info = BootInfo::new(&map)
        .with_reserved(&taken)
        .with_file_name(&name)
        .with_command_line(&command_line)
        .with_modules(&for_modules)
        .with_rsdp(rsdp.as_ref().map(|(address, bytes)| Rsdp { address: (*address).into(), bytes }));
    let fail = |error: &dyn std::fmt::Display, help| {
        config.error_at("guest", format!("{}{error}", config.guest_prefix())).with_help(help)
    };
    let BootHandoff { image, blobs, modules: addresses, registers, summary, .. } =
        plan.handoff(&bytes, &boot_info).map_err(|error| fail(&error, boot_help::help(&error)))?;
    boot.boot_info = summary;
    for (register, value) in registers {
        if !machine.boot.registers.iter().any(|(given, _)| *given == register) {
            machine.boot.registers.push((register, value));
            boot.registers.push(register);
        }
    }

    let mut files = vec![LoadedFile::new(name, bytes, image)];
    for (file, address) in modules.into_iter().zip(addresses) {
        // Of an empty module the kernel is told, but there is nothing to load.
        if !file.bytes.is_empty() {
            let what = file.module.kind.name();
            let plan = flat::plan_data(&file.bytes, address, what).map_err(|error| fail(&error, None))?;
            files.push(LoadedFile::new(file.name, file.bytes, plan));
        }
    }
    for blob in blobs {
        let plan =
            flat::plan_data(&blob.bytes, blob.address, blob.name).map_err(|error| fail(&error, None))?;
        files.push(LoadedFile::new("boot loader".to_owned(), blob.bytes.into(), plan));
    }
    Ok(files)
}

/// The kernel's command line, with what only Linux needs in it.
fn command_line(config: &Config, machine: &MachineSpec, is_linux: bool) -> String {
    let given = config.command_line.as_deref();
    if !is_linux {
        return given.unwrap_or_default().to_owned();
    }
    let mut words = vec![given.unwrap_or(LINUX_COMMAND_LINE).to_owned()];
    // With ACPI tables, Linux finds these devices there.
    if !machine.devices.platform.acpi {
        words.extend(virtio::linux_parameters(&machine.devices.virtio));
    }
    words.join(" ")
}

/// Returns a note about the protocol for the user, before the run.
pub(super) fn note(config: &Config, protocol: Protocol) -> Option<Diagnostic> {
    if protocol != Protocol::BootSector {
        return None;
    }
    let message = "there is no BIOS: an `int` of one finds an empty vector table";
    let note = config.error_at(&config.guest.key, message);
    Some(Diagnostic { severity: Severity::Warning, status: Status::Success, ..note })
}

/// The ACPI root pointer: 36 bytes since ACPI 2.0.
fn rsdp(machine: &MachineSpec) -> Option<(Gpa, Vec<u8>)> {
    if !machine.devices.platform.acpi {
        return None;
    }
    let image = firmware::images(machine).into_iter().find(|image| image.gpa == firmware::RSDP)?;
    Some((image.gpa, image.bytes.get(..36)?.to_vec()))
}
