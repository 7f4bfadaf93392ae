//! Command-line options that several subcommands have.

use clap::{Args, ValueEnum, ValueHint};

use crate::config::Overrides;
use crate::config::note::NotePolicy;

/// Output format (`--format`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    #[default]
    Text,
    /// JSON for programs
    Json,
}

/// Options that replace values of the configuration.
#[derive(Debug, Default, Args)]
pub(crate) struct OverrideArgs {
    /// Set a key of the configuration, such as memory.size=4MiB; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// CPU mode: real, protected, paged, pae or long
    #[arg(long)]
    mode: Option<String>,
    /// Boot protocol: elf, multiboot, multiboot2, pvh, linux, flat or boot-sector
    #[arg(long, value_name = "PROTOCOL")]
    boot: Option<String>,
    /// Memory size, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Number of vCPUs
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Command line of the kernel
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Initial ramdisk of Linux; first module of other kernels
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    initrd: Option<String>,
    /// Boot module and its command line; can be given several times
    #[arg(long, value_name = "FILE[=CMDLINE]", value_hint = ValueHint::FilePath)]
    module: Vec<String>,
    /// Treat a configuration inside an ELF file as one of your own: it may use any file and write to disks
    #[arg(long)]
    trust_note: bool,
    /// Time limit, such as 500ms or 10s
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

impl OverrideArgs {
    /// Returns the options in the form that [`Config::load`](crate::config::Config::load) takes. A configuration inside an ELF
    /// file is confined, for commands that do no more with it than to run it.
    pub(crate) fn to_overrides_with_notes(&self) -> Overrides {
        let notes = if self.trust_note { NotePolicy::Trust } else { NotePolicy::Confine };
        self.to_overrides().with_notes(notes)
    }

    /// Returns the options in the form that [`Config::load`](crate::config::Config::load) takes. A configuration inside an ELF
    /// file is refused unless it is trusted.
    pub(crate) fn to_overrides(&self) -> Overrides {
        let mut overrides = Overrides::new();
        for assignment in &self.set {
            overrides.set(assignment);
        }
        if let Some(mode) = &self.mode {
            overrides.mode(mode);
        }
        if let Some(name) = &self.boot {
            overrides.boot(name);
        }
        if let Some(size) = &self.memory {
            overrides.memory(size);
        }
        if let Some(number) = &self.cpus {
            overrides.cpus(number);
        }
        if let Some(text) = &self.cmdline {
            overrides.command_line(text);
        }
        if let Some(file) = &self.initrd {
            overrides.initrd(file);
        }
        for module in &self.module {
            overrides.module(module);
        }
        if let Some(time) = &self.timeout {
            overrides.timeout(time);
        }
        if self.trust_note { overrides.with_notes(NotePolicy::Trust) } else { overrides }
    }
}
