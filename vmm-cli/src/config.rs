//! The TOML front-end: one file, with the command line's overrides, becomes a [`Config`] or a list of mistakes.
//!
//! The steps, each a module, in the order in which a file passes through them:
//!
//! 1. `source`: the texts (the file, each option) and how a span finds back to its text;
//! 2. [`overrides`]: `--set`, `--mode` and `--timeout` replace values of the parsed file;
//! 3. `read`: the parsed file becomes the serde types of [`raw`], with the values of [`values`];
//! 4. `lower`: the raw types become a machine that makes sense, table by table.
//!
//! Every step collects its mistakes, so one call reports them all. Nothing here opens the guest's file or
//! `/dev/kvm`; what is found wrong later can still point into the TOML, through [`Config::error_at`].
//!
//! The JSON schema ([`schema`]) comes from the raw types; [`template`] is the file that `vmm-cli init` writes.

mod complaint;
mod expect;
mod fault;
mod load;
mod lower;
pub mod overrides;
pub mod raw;
mod read;
pub mod schema;
pub mod source;
mod syntax;
pub mod template;
mod test_file;
mod test_plan;
pub mod values;

use std::path::{Path, PathBuf};

use vmm_core::Gpa;
use vmm_core::spec::MachineSpec;
use vmm_core::spec::mode::Mode;
use vmm_loader::Loading;
use vmm_loader::boot::Protocol;

use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;
use fault::Faults;
use source::Sources;

pub use expect::{Expect, ExpectedMemory, MemoryPlace, Pattern};
pub use overrides::Overrides;
pub use raw::End;
pub use test_file::{TestFile, Variant};
pub use test_plan::{TestCase, TestPlan};
pub use values::EntryChoice;

/// A configuration without mistakes, as far as that can be known without the guest's file and without KVM.
#[derive(Debug, Clone)]
pub struct Config {
    /// The machine. Its `boot.entry` holds only where [`Config::entry`] is an address: otherwise it is 0 and has to be
    /// set once the guest's file has been read.
    pub machine: MachineSpec,
    /// How the guest is started, as far as it is known.
    pub start: Start,
    /// Where execution starts, as chosen.
    pub entry: EntryChoice,
    /// The program.
    pub guest: File,
    /// The kernel's command line, where one is given.
    pub command_line: Option<String>,
    /// Files that the kernel is told of, the initrd first.
    pub modules: Vec<Module>,
    /// More files, in the order of the TOML file.
    pub loads: Vec<File>,
    /// How all these files get into guest memory.
    pub loading: Loading,
    /// Files of the configuration device that are still to be read.
    pub fw_cfg: Vec<FwCfgSource>,
    /// What has to be true after the run.
    pub expect: Option<Expect>,
    /// The cases that `vmm-cli test` makes of it, where it says.
    pub test: Option<TestPlan>,
    texts: Texts,
}

/// How a guest is started. What is `None`, its file decides: see [`Config::decide`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Start {
    /// By which protocol.
    pub protocol: Option<Protocol>,
    /// In which CPU mode.
    pub mode: Option<Mode>,
}

/// A file that a kernel is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path, as that of a [`File`].
    pub path: PathBuf,
    /// The key that names it, for [`Config::error_at`].
    pub key: String,
    /// Its own command line, where one is given.
    pub command_line: Option<String>,
}

/// A file of the configuration device whose bytes are those of a file of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FwCfgSource {
    /// Its place in the machine's list of such files.
    pub index: usize,
    /// The path of the bytes, as that of a [`File`].
    pub path: PathBuf,
    /// The key that names it, for [`Config::error_at`].
    pub key: String,
}

/// A file that goes into guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path, with the directory of the TOML file in front of it and `{mode}` filled in.
    pub path: PathBuf,
    /// What is in it.
    pub kind: FileKind,
    /// The key that names it, such as `guest.elf` or `load.0.file`, for [`Config::error_at`].
    pub key: String,
}

/// What a file holds and where that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An ELF file, which says itself where its segments go, or for a static PIE how far apart they are.
    Elf {
        /// Where a static PIE goes.
        base: Option<Gpa>,
    },
    /// Bytes that are put into memory as they are.
    Flat {
        /// Where the first of them goes.
        address: Gpa,
    },
}

/// The texts a configuration was made from, kept for errors that are found later.
#[derive(Debug, Clone)]
struct Texts {
    path: PathBuf,
    file: String,
    /// Whether somebody has written the text: errors do not show one that was made here.
    is_written: bool,
    overrides: Overrides,
}

impl Texts {
    /// The file as the first of the texts.
    fn sources(&self) -> Sources {
        let mut sources = Sources::default();
        let name = self.path.display().to_string();
        if self.is_written {
            sources.add(&name, &self.file)
        } else {
            sources.add_unseen(&name, &self.file)
        };
        sources
    }
}

impl Config {
    /// Reads the file at `path`, which paths inside of it are relative to. A file that is no configuration is taken for
    /// a kernel: it gets what a note in it says, else the machine that kernels expect, with 256 MiB of memory.
    ///
    /// # Errors
    ///
    /// All mistakes in the file and the options, or why the file cannot be read.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, Diagnostics> {
        match load::load(path)? {
            load::Loaded::Configuration(text) => Self::from_text(&text, path, overrides),
            load::Loaded::Noted(text, implied) => Self::from_text(&text, path, &implied.and(overrides)),
            load::Loaded::Kernel(file) => Self::from_texts(
                Texts { path: path.to_owned(), file, is_written: false, overrides: overrides.clone() },
                None,
            ),
        }
    }

    /// Reads `text` as if it stood in the file at `path`.
    ///
    /// # Errors
    ///
    /// All mistakes in the text and the options.
    pub fn from_text(text: &str, path: &Path, overrides: &Overrides) -> Result<Self, Diagnostics> {
        let (path, file) = (path.to_owned(), text.to_owned());
        Self::from_texts(Texts { path, file, is_written: true, overrides: overrides.clone() }, None)
    }

    /// The same configuration once the guest's file has decided what was left to it. What depends on the mode is checked
    /// only now, and what the protocol has defaults for gets them.
    ///
    /// # Errors
    ///
    /// All mistakes that show only now.
    pub fn decide(&self, start: Start) -> Result<Self, Diagnostics> {
        Self::from_texts(self.texts.clone(), Some(start))
    }

    fn from_texts(texts: Texts, decided: Option<Start>) -> Result<Self, Diagnostics> {
        let mut sources = texts.sources();
        let mut faults = Faults::default();
        let document = read::parse(&texts.file, &texts.overrides, &mut sources, &mut faults);
        if !faults.is_empty() {
            return Err(faults.into_diagnostics(&sources));
        }
        let directory = texts.path.parent().unwrap_or_else(|| Path::new(""));
        let lowered = read::read(document, &mut faults)
            .and_then(|document| lower::lower(&document, directory, decided, &mut faults));
        match lowered {
            Some(lowered) if faults.is_empty() => Ok(Self {
                machine: lowered.machine,
                start: lowered.start,
                entry: lowered.entry,
                guest: lowered.guest,
                command_line: lowered.command_line,
                modules: lowered.modules,
                loads: lowered.loads,
                loading: lowered.loading,
                fw_cfg: lowered.fw_cfg,
                expect: lowered.expect,
                test: lowered.test,
                texts,
            }),
            Some(_) | None => Err(faults.into_diagnostics(&sources)),
        }
    }

    /// What an error at the guest's file begins with: its path, if the error points at another file.
    #[must_use]
    pub fn guest_prefix(&self) -> String {
        let is_another = self.texts.is_written && self.guest.path != self.texts.path;
        if is_another { format!("{}: ", self.guest.path.display()) } else { String::new() }
    }

    /// The CPU mode. Of no meaning as long as [`Start::mode`] is not known.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.machine.boot.mode
    }

    /// An error of the configuration class at `key`, in the language of `--set`: `guest.elf`, `memory.0`,
    /// `paging.map.2.gva`. Where the key is not in the file, the error points at the nearest table around it that is,
    /// or at the file.
    #[must_use]
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(Status::Configuration, message).at(self.location(key))
    }

    /// Where `key` stands: see [`Config::error_at`].
    #[must_use]
    pub fn location(&self, key: &str) -> Location {
        // Parsed again rather than kept: a run without errors, the common one, pays nothing for it.
        let Texts { path, file, overrides, .. } = &self.texts;
        let mut sources = self.texts.sources();
        let document = read::parse(file, overrides, &mut sources, &mut Faults::default());
        read::locate(&document, key)
            .and_then(|span| sources.place(&span))
            .map_or_else(|| Location::File(path.display().to_string()), Location::Text)
    }
}
