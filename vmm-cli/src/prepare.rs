//! From a configuration to a machine's description and a guest image: everything that can be done without KVM.
//!
//! The guest's files are read and planned, the entry is found, the layout is computed. `check` stops here; `run` goes on
//! to build the machine. Each mistake points at the line of the TOML file that led to it.
//!
//! | file | step |
//! |---|---|
//! | `prepare/file_cache.rs`, `prepare/file_bytes.rs`, `prepare/file_errors.rs` | reading files, and what can be wrong with one |
//! | `prepare/boot.rs` | the boot protocol: which, and what the kernel is told |
//! | `prepare/files.rs` | what goes into memory, and its symbols |

mod boot;
mod boot_help;
mod file_bytes;
mod file_cache;
mod file_errors;
mod files;
mod fw_cfg;

use vmm_core::Gva;
use vmm_core::layout::{self, Layout};
use vmm_core::machine::image::GuestImage;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec, VirtioSpec};
use vmm_loader::boot::BootPlan;
use vmm_loader::{LoadPlan, VirtAddr};

use crate::config::{Config, EntryChoice, Expect, MemoryLocation};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::{disks, layout_diagnostics};
pub(crate) use boot::Boot;
use boot::Planned;
use file_bytes::FileBytes;
pub(crate) use file_cache::FileCache;
pub(crate) use files::Files;
use files::LoadedFile;

/// A machine to be, and the files for its memory.
pub(crate) struct Prepared {
    /// The machine, with its entry.
    pub(crate) machine: MachineSpec,
    /// Memory layout.
    pub(crate) layout: Layout,
    /// The guest, and what is loaded beside it.
    pub(crate) files: Files,
    /// Description of the start of the guest.
    pub(crate) boot: Boot,
    /// Notes for the user before the run.
    pub(crate) notes: Vec<Diagnostic>,
}

impl Prepared {
    /// Reads the files and makes sure that they fit.
    ///
    /// # Errors
    /// All mistakes that can be found at once: files first, then where they lie.
    pub(crate) fn new(config: &Config) -> Result<Self, Diagnostics> {
        Self::with(config, &FileCache::new())
    }

    /// Prepares a configuration, with files from `reader`.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub(crate) fn with(config: &Config, reader: &FileCache) -> Result<Self, Diagnostics> {
        let mut problems = Vec::new();
        let guest = guest(config, reader);
        // Protocol and mode that the configuration leaves to the file are known now.
        let start = guest.as_ref().map_or(config.start.complete(), |(_, planned)| Some(planned.start()));
        let machine = start.and_then(|start| {
            config.machine(start).map_err(|Diagnostics(found)| problems.extend(found)).ok()
        });
        let mode = machine.as_ref().map(|machine| machine.boot.mode);
        if let Err(problem) = &guest {
            problems.push(problem.clone());
        } else if let Ok((_, planned)) = &guest
            && planned.plan.protocol.is_plain()
        {
            let class = planned.plan.image.class();
            problems.extend(file_errors::check_class(config, &config.guest, planned.mode, class).err());
        }
        let loads: Vec<LoadedFile> = config
            .loads
            .iter()
            .filter_map(|file| {
                file_errors::extra(config, reader, file, mode).map_err(|problem| problems.push(problem)).ok()
            })
            .collect();
        let modules = boot::modules(config, reader, mode, &mut problems);
        if let Some(machine) = &machine {
            problems.extend(disks::check(config, &machine.devices));
        }
        let (bytes, Planned { plan, mode, mut boot }, machine) = match (guest, machine) {
            (Ok((bytes, planned)), Some(machine)) if problems.is_empty() => (bytes, planned, machine),
            (_, _) => return Err(Diagnostics(problems)),
        };

        let entry = entry(config, mode, machine.boot.entry.as_ref(), &plan).unwrap_or_else(|problem| {
            problems.push(problem);
            // The checks below do not depend on the entry.
            EntryPoint::Address(Gva(0))
        });
        let mut machine = machine.with_entry(entry);
        problems.extend(fw_cfg::fill(config, reader, &mut machine));
        let notes = boot::note(config, plan.protocol).into_iter().collect();
        let guest = (bytes, plan);
        let mut files = match boot::plan_handoff(config, &mut machine, guest, modules, &loads, &mut boot) {
            Ok(files) => files,
            Err(problem) => {
                problems.push(problem);
                return Err(Diagnostics(problems));
            }
        };
        // The guest first, the user's other files next, then what the protocol adds.
        files.splice(1..1, loads);
        let files = Files::new(files, config.loading, &machine);
        problems.extend(check(&files, config));
        let layout = layout::compute(&machine, &files.occupied());
        match layout {
            Ok(layout) if problems.is_empty() => Ok(Self { machine, layout, files, boot, notes }),
            Ok(_) => Err(Diagnostics(problems)),
            Err(error) => {
                problems.extend(layout_diagnostics::locate(config, &error));
                Err(Diagnostics(problems))
            }
        }
    }
}

impl Prepared {
    /// Returns the paths of all files that a run reads for the configuration, the guest's first.
    pub(crate) fn read_files(&self, config: &Config) -> Vec<String> {
        let disks = self.machine.devices.virtio.iter().filter_map(|device| match device {
            VirtioSpec::Block(block) => Some(&block.image),
            VirtioSpec::Console { .. } | VirtioSpec::Entropy => None,
        });
        let input = Some(config.input_file()).filter(|file| config.test.is_some() && file.as_path().exists());
        config.files().chain(disks).chain(&input).map(|file| file.display().to_string()).collect()
    }
}

/// The guest's file, read and planned.
fn guest(config: &Config, reader: &FileCache) -> Result<(FileBytes, Planned), Diagnostic> {
    let file = &config.guest;
    let bytes = file_errors::bytes(config, reader, file, config.start.mode)?;
    let planned = boot::plan(config, &bytes);
    file_errors::unchanged(config, file, &bytes)?;
    Ok((bytes, planned?))
}

/// Returns the entry point: that of the boot protocol, or the one that the configuration chooses.
fn entry(
    config: &Config,
    mode: Mode,
    choice: Option<&EntryChoice>,
    plan: &BootPlan,
) -> Result<EntryPoint, Diagnostic> {
    if let Some(entry) = plan.entry {
        return Ok(EntryPoint::Address(Gva(entry.0)));
    }
    let problem = |error: &dyn std::fmt::Display, help| {
        config.error_at("guest.entry", error.to_string()).with_help(help)
    };
    let entry = match choice {
        Some(EntryChoice::Segmented { segment, offset }) => {
            return Ok(EntryPoint::Segmented { segment: *segment, offset: *offset });
        }
        None => plan.image.resolve_entry().map_err(|error| problem(&error, error.help()))?,
        Some(EntryChoice::Symbol(name)) => {
            plan.image.symbols().lookup(name).map_err(|error| problem(&error, error.help()))?.address
        }
        Some(EntryChoice::Address(address)) => VirtAddr(address.0),
    };
    if !mode.is_protected() && entry.0 >= mode.address_limit() {
        let message = format!("the entry {entry} is out of reach in real mode, which ends at 1 MiB");
        return Err(config.error_at("guest.entry", message).with_help(Some("link the guest below 0x100000")));
    }
    Ok(EntryPoint::Address(Gva(entry.0)))
}

/// What can be said once all files are there.
fn check(files: &Files, config: &Config) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let plans: Vec<(&str, &LoadPlan)> = files.plans().collect();
    if let Err(error) = vmm_loader::check_overlap(&plans) {
        problems.push(config.error_at("load", error.to_string()).with_help(error.help()));
    }
    let symbols = config.expect.as_ref().map(expected_symbols).unwrap_or_default();
    for (index, name) in symbols {
        if let Err(error) = files.symbol(name) {
            let key = format!("expect.memory.{index}.symbol");
            problems.push(config.error_at(&key, error.to_string()).with_help(error.help()));
        }
    }
    problems
}

fn expected_symbols(expect: &Expect) -> Vec<(usize, &str)> {
    expect
        .memory
        .iter()
        .enumerate()
        .filter_map(|(index, expected)| match &expected.location {
            MemoryLocation::Symbol(name) => Some((index, name.as_str())),
            MemoryLocation::Address(_) => None,
        })
        .collect()
}
