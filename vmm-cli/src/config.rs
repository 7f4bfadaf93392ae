//! TOML front-end: turns one file and the command line's overrides into a [`Config`] or a list of problems.
//!
//! Steps, each a module:
//!
//! 1. `source`: the texts (the file and each option), and the text of a span;
//! 2. [`overrides`]: `--set`, `--mode` and `--timeout` replace values of the parsed file;
//! 3. `read`: the parsed file becomes the serde types of [`schema`], with the values of [`values`];
//! 4. `lower`: these types are checked table by table and become a [`MachineTemplate`].
//!
//! Every step collects its problems, so one call reports all. Nothing here opens the guest's file or `/dev/kvm`. Errors that
//! are found later can still point into the TOML by [`Config::error_at`].
//!
//! The JSON schema ([`json_schema`]) comes from the types in [`schema`]; [`template`] is the file that `vmm-cli init` writes.

pub mod address_expr;
mod expect;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod json_schema;
mod load;
mod lower;
pub mod note;
pub mod overrides;
mod problem;
mod read;
pub mod schema;
mod serde_error;
pub mod source;
mod syntax;
pub mod template;
mod test_file;
mod test_plan;
pub mod values;

use std::path::{Path, PathBuf};

use vmm_core::Gpa;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{HostFile, MachineSpec};
use vmm_loader::LoadPolicy;
use vmm_loader::boot::Protocol;

use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;
use note::{NoteOrigin, NotePolicy};
use problem::ConfigProblems;
use schema::Document;
use source::Sources;

pub use expect::{Expect, ExpectedMemory, MemoryLocation, Pattern};
pub use lower::MEMORY_HOLE;
pub use overrides::Overrides;
pub use test_file::{TestFile, Variant};
pub use test_plan::{TestCase, TestPlan};
pub use values::EntryChoice;

/// Configuration that has been checked as far as possible without the guest's file and without KVM.
///
/// The machine itself depends on how the guest is started, which the guest's file may have to decide: see
/// [`Config::machine`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Boot protocol and CPU mode, as far as the configuration names them.
    pub start: StartChoice,
    /// File of the guest's program or kernel.
    pub guest: File,
    /// Command line of the kernel; `None` if none is given.
    pub command_line: Option<String>,
    /// Files that the boot loader passes to the kernel, the initrd first.
    pub modules: Vec<Module>,
    /// Further files for guest memory, in the order of the TOML file.
    pub loads: Vec<File>,
    /// Files of QEMU's configuration device (fw_cfg) that are still to be read.
    pub fw_cfg: Vec<FwCfgSource>,
    /// Method of loading the files into guest memory.
    pub loading: LoadPolicy,
    /// Expectations for the end of the run; `None` without `[expect]`.
    pub expect: Option<Expect>,
    /// Test cases of the file; `None` without `[test]`.
    pub test: Option<TestPlan>,
    /// The machine, if `start` is complete.
    machine: Option<MachineTemplate>,
    document: Document,
    texts: Texts,
}

/// Machine whose entry is not resolved yet; `None` is the entry of the guest's file (`e_entry` of an ELF file).
pub type MachineTemplate = MachineSpec<Option<EntryChoice>>;

/// Boot protocol and CPU mode as far as the configuration names them. The guest's file decides the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartChoice {
    /// Boot protocol, if the configuration names one.
    pub protocol: Option<Protocol>,
    /// CPU mode at the entry, if the configuration names one.
    pub mode: Option<Mode>,
}

impl StartChoice {
    /// Returns boot protocol and CPU mode if both are known.
    #[must_use]
    pub const fn complete(self) -> Option<Start> {
        match (self.protocol, self.mode) {
            (Some(protocol), Some(mode)) => Some(Start { protocol, mode }),
            (_, _) => None,
        }
    }
}

/// Boot protocol and CPU mode that a guest is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Boot protocol that the guest is started by.
    pub protocol: Protocol,
    /// CPU mode in which the guest is entered.
    pub mode: Mode,
}

impl From<Start> for StartChoice {
    fn from(Start { protocol, mode }: Start) -> Self {
        Self { protocol: Some(protocol), mode: Some(mode) }
    }
}

/// File that the boot loader passes to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path of the file, relative to the directory of the TOML file, with `{mode}` replaced.
    pub path: HostFile,
    /// Key of the configuration that names the file, for [`Config::error_at`].
    pub key: String,
    /// Kind of the file: initrd or module.
    pub kind: ModuleKind,
    /// Command line of the module; `None` if none is given.
    pub command_line: Option<String>,
}

/// Kind of a file that a boot loader passes to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// Initial ramdisk of Linux (`guest.initrd`).
    Initrd,
    /// Module of a kernel (`[[guest.module]]`).
    Module,
}

impl ModuleKind {
    /// Returns the name of the kind in memory maps and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initrd => "initrd",
            Self::Module => "module",
        }
    }
}

/// File of QEMU's configuration device (fw_cfg) whose contents come from a file on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FwCfgSource {
    /// Index in the list of the machine's configuration files.
    pub index: usize,
    /// Path of the file with the contents, relative to the directory of the TOML file, with `{mode}` replaced.
    pub path: HostFile,
    /// Key of the configuration that names the file, for [`Config::error_at`].
    pub key: String,
}

/// File that is loaded into guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path of the file, relative to the directory of the TOML file, with `{mode}` replaced.
    pub path: HostFile,
    /// Format of the file, and its address in guest memory.
    pub kind: FileKind,
    /// Key of the configuration that names the file, such as `guest.elf` or `load.0.file`, for [`Config::error_at`].
    pub key: String,
}

/// Format of a file, and its address in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// ELF file, which specifies the addresses of its segments, or their distances if it is a static PIE.
    Elf {
        /// Base address of a static PIE; `None` for the default.
        base: Option<Gpa>,
    },
    /// Flat binary: bytes that are loaded unchanged.
    Flat {
        /// Guest-physical address of the first byte.
        address: Gpa,
    },
}

/// Texts that a configuration was read from, kept for errors that are found later.
#[derive(Debug, Clone)]
struct Texts {
    path: PathBuf,
    file: String,
    /// True if a user wrote the text. Errors do not show a generated text.
    is_written: bool,
    overrides: Overrides,
    /// The file and the overrides, for places in errors.
    sources: Sources,
    /// Origin of the text, if it is inside an ELF file.
    note: Option<NoteOrigin>,
}

impl Texts {
    fn new(path: &Path, file: String, is_written: bool, overrides: &Overrides) -> Self {
        let (path, overrides) = (path.to_owned(), overrides.clone());
        Self { path, file, is_written, overrides, sources: Sources::default(), note: None }
    }

    /// File that the text is in.
    fn file_path(&self) -> &Path {
        self.note.as_ref().map_or(&self.path, NoteOrigin::file)
    }

    /// Directory that paths in the file are relative to.
    fn directory(&self) -> &Path {
        self.file_path().parent().unwrap_or_else(|| Path::new(""))
    }

    /// Directory that the files of the configuration must be inside, if it is confined.
    fn confinement(&self) -> Option<&Path> {
        self.note.as_ref()?.confinement()
    }

    /// Returns the file at `path`, which is part of the configuration or named by it.
    fn host_file(&self, path: PathBuf) -> HostFile {
        match self.confinement() {
            Some(directory) => HostFile::inside(path, directory),
            None => HostFile::new(path),
        }
    }

    /// Returns sources that hold the file alone.
    fn file_source(&self) -> Sources {
        let mut sources = Sources::default();
        let name = self.path.display().to_string();
        if self.is_written {
            sources.add(&name, &self.file)
        } else {
            sources.add_generated(&name, &self.file)
        };
        sources
    }
}

impl Config {
    /// Reads and checks the configuration file at `path`. Paths in it are relative to its directory. A file that is not a
    /// configuration is taken as a kernel: its machine is that of the note in the file, or a PC with 256 MiB of memory.
    ///
    /// # Errors
    ///
    /// All problems of the file and the options, or the error that reading the file gave. A note is refused unless
    /// [`Overrides::with_notes`] accepts it.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, Diagnostics> {
        match load::load(path)? {
            load::Loaded::Configuration(text) => Self::from_text(&text, path, overrides),
            load::Loaded::Noted(_) if overrides.notes() == NotePolicy::Refuse => Err(note_refused(path)),
            load::Loaded::Noted(load::Note { text, implied, origin }) => {
                Self::from_note(&text, path, &implied.and(overrides), origin)
            }
            load::Loaded::Kernel(file) => Self::from_texts(Texts::new(path, file, false, overrides)),
        }
    }

    /// Reads `text` as the contents of the file at `path`.
    ///
    /// # Errors
    ///
    /// All problems of the text and the options.
    pub fn from_text(text: &str, path: &Path, overrides: &Overrides) -> Result<Self, Diagnostics> {
        Self::from_texts(Texts::new(path, text.to_owned(), true, overrides))
    }

    /// Reads `text` as the note of the ELF file at `path`.
    fn from_note(
        text: &str,
        path: &Path,
        overrides: &Overrides,
        origin: NoteOrigin,
    ) -> Result<Self, Diagnostics> {
        let note = Some(origin.with_trust(overrides.notes() == NotePolicy::Trust));
        Self::from_texts(Texts { note, ..Texts::new(path, text.to_owned(), true, overrides) })
    }

    /// Returns true if the configuration is inside an ELF file.
    #[must_use]
    pub fn is_note(&self) -> bool {
        self.texts.note.is_some()
    }

    /// Returns the file with the input of a test: NAME.input beside NAME.toml.
    #[must_use]
    pub fn input_file(&self) -> HostFile {
        self.texts.host_file(self.texts.file_path().with_extension("input"))
    }

    /// Returns the files that the configuration names, the guest's first. Those of disks are in the machine's description.
    pub fn files(&self) -> impl Iterator<Item = &HostFile> {
        let guest = std::iter::once(&self.guest.path);
        let modules = self.modules.iter().map(|module| &module.path);
        let fw_cfg = self.fw_cfg.iter().map(|source| &source.path);
        guest.chain(self.loads.iter().map(|file| &file.path)).chain(modules).chain(fw_cfg)
    }

    /// Returns the machine of a guest that is started with `start`. What depends on protocol or mode, and was still open
    /// when the file was read, is checked here and gets its defaults.
    ///
    /// # Errors
    ///
    /// All problems that could not be found before `start` was known.
    pub fn machine(&self, start: Start) -> Result<MachineTemplate, Diagnostics> {
        if let Some(machine) = &self.machine
            && self.start == start.into()
        {
            return Ok(machine.clone());
        }
        let mut problems = ConfigProblems::default();
        let config = lower::lower(self.document.clone(), self.texts.clone(), start.into(), &mut problems);
        match config.and_then(|config| config.machine) {
            Some(machine) if problems.is_empty() => Ok(machine),
            Some(_) | None => Err(problems.into_diagnostics(&self.texts.sources)),
        }
    }

    fn from_texts(mut texts: Texts) -> Result<Self, Diagnostics> {
        let mut sources = texts.file_source();
        let mut problems = ConfigProblems::default();
        let document = read::parse(&texts.file, &texts.overrides, &mut sources, &mut problems);
        if !problems.is_empty() {
            return Err(problems.into_diagnostics(&sources));
        }
        let document = read::read(document, &mut problems);
        texts.sources = sources.clone();
        let config = document
            .and_then(|document| lower::lower(document, texts, StartChoice::default(), &mut problems));
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            Some(_) | None => Err(problems.into_diagnostics(&sources)),
        }
    }

    /// Returns the prefix of an error about the guest's file: its path, unless the error points to that file.
    #[must_use]
    pub fn guest_prefix(&self) -> String {
        let is_another = self.texts.is_written && self.guest.path.as_path() != self.texts.file_path();
        if is_another { format!("{}: ", self.guest.path.display()) } else { String::new() }
    }

    /// Returns a configuration error at `key`, in the syntax of `--set`: `guest.elf`, `memory.0`, `paging.map.2.gva`. If the
    /// key is not in the file, the error points to the nearest enclosing table, or to the file.
    #[must_use]
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(Status::Configuration, message).at(self.location(key))
    }

    /// Returns the error of a file named at `key` that a configuration inside an ELF file may not use. `real` is the path without
    /// symbolic links.
    pub(crate) fn outside(&self, key: &str, path: &Path, real: &Path, directory: &Path) -> Diagnostic {
        let real = if real == path { String::new() } else { format!(" ({})", real.display()) };
        let (path, directory) = (path.display(), directory.display());
        let message = format!(
            "`{key}` names {path}{real}, which is outside of {directory}, the directory of this ELF file"
        );
        self.error_at(key, message).with_help(Some(note::HELP))
    }

    /// Returns the location of a key in the texts of the configuration, named as for [`Config::error_at`].
    #[must_use]
    pub fn location(&self, key: &str) -> Location {
        self.locate(key).0
    }

    /// Returns true if the file or an option sets a key: then [`Config::location`] is that of its value.
    #[must_use]
    pub fn sets(&self, key: &str) -> bool {
        self.locate(key).1
    }

    /// Location for `key`, and whether `key` itself is set there.
    fn locate(&self, key: &str) -> (Location, bool) {
        // Parsed again, so that a run without errors does not pay for keeping the document.
        let Texts { path, file, overrides, .. } = &self.texts;
        let mut sources = self.texts.file_source();
        let document = read::parse(file, overrides, &mut sources, &mut ConfigProblems::default());
        let (span, is_set) = read::locate(&document, key);
        span.and_then(|span| sources.place(&span)).map_or_else(
            || (Location::File(path.display().to_string()), false),
            |place| (Location::Text(place), is_set),
        )
    }
}

/// Error of a command that does not accept a configuration inside an ELF file.
fn note_refused(path: &Path) -> Diagnostics {
    let help = "see what it does with `vmm-cli check -v` and `explain`; if you trust it, add `--trust-note`";
    let message =
        "this ELF file brings its own configuration, which this command takes only from files that you trust";
    Diagnostics::from(
        Diagnostic::error(Status::Configuration, message)
            .at(Location::File(path.display().to_string()))
            .with_help(Some(help)),
    )
}
