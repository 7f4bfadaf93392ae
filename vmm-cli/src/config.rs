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
mod machine_template;
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

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use vmm_core::Gpa;
use vmm_core::spec::mode::Mode;
use vmm_loader::Loading;
use vmm_loader::boot::Protocol;

use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;
use fault::Faults;
use raw::Document;
use source::Sources;

pub use expect::{Expect, ExpectedMemory, MemoryPlace, Pattern};
pub use lower::MEMORY_HOLE;
pub use machine_template::MachineTemplate;
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
    /// Protocol and mode, as far as the configuration names them.
    pub start: StartChoice,
    /// Entry point, not resolved yet.
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
    /// What has to be true after the run.
    pub expect: Option<Expect>,
    /// The cases that `vmm-cli test` makes of it, where it says.
    pub test: Option<TestPlan>,
    /// The machine, if `start` is complete.
    machine: Option<MachineTemplate>,
    document: Document,
    texts: Texts,
}

/// Protocol and mode as far as the configuration names them. The guest's file decides the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartChoice {
    /// Boot protocol.
    pub protocol: Option<Protocol>,
    /// CPU mode at the entry.
    pub mode: Option<Mode>,
}

impl StartChoice {
    /// Returns protocol and mode if both are known.
    #[must_use]
    pub const fn complete(self) -> Option<Start> {
        match (self.protocol, self.mode) {
            (Some(protocol), Some(mode)) => Some(Start { protocol, mode }),
            (_, _) => None,
        }
    }
}

/// Protocol and mode that a guest is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Boot protocol.
    pub protocol: Protocol,
    /// CPU mode at the entry.
    pub mode: Mode,
}

impl From<Start> for StartChoice {
    fn from(Start { protocol, mode }: Start) -> Self {
        Self { protocol: Some(protocol), mode: Some(mode) }
    }
}

/// A file that a kernel is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path, as that of a [`FileSummary`].
    pub path: PathBuf,
    /// The key that names it, for [`Config::error_at`].
    pub key: String,
    /// Initrd or module.
    pub kind: ModuleKind,
    /// Its own command line, where one is given.
    pub command_line: Option<String>,
}

/// Kind of a file that a boot loader passes to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// Initial ramdisk (`guest.initrd`).
    Initrd,
    /// Module (`[[guest.module]]`).
    Module,
}

impl ModuleKind {
    /// Returns the name in memory maps and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initrd => "initrd",
            Self::Module => "module",
        }
    }
}

/// A file of the configuration device whose bytes are those of a file of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FwCfgSource {
    /// Its place in the machine's list of such files.
    pub index: usize,
    /// The path of the bytes, as that of a [`FileSummary`].
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
    /// The file and the overrides, for places in errors.
    sources: Sources,
}

impl Texts {
    fn new(path: &Path, file: String, is_written: bool, overrides: &Overrides) -> Self {
        let (path, overrides) = (path.to_owned(), overrides.clone());
        Self { path, file, is_written, overrides, sources: Sources::default() }
    }

    /// Directory that paths in the file are relative to.
    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// Returns sources that hold the file alone.
    fn file_source(&self) -> Sources {
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
            load::Loaded::Kernel(file) => Self::from_texts(Texts::new(path, file, false, overrides)),
        }
    }

    /// Reads `text` as if it stood in the file at `path`.
    ///
    /// # Errors
    ///
    /// All mistakes in the text and the options.
    pub fn from_text(text: &str, path: &Path, overrides: &Overrides) -> Result<Self, Diagnostics> {
        Self::from_texts(Texts::new(path, text.to_owned(), true, overrides))
    }

    /// Returns the machine of a guest that is started with `start`. What depends on protocol or mode, and was still open
    /// when the file was read, is checked here and gets its defaults.
    ///
    /// # Errors
    ///
    /// All mistakes that could not be found before `start` was known.
    pub fn machine(&self, start: Start) -> Result<Cow<'_, MachineTemplate>, Diagnostics> {
        if let Some(machine) = &self.machine
            && self.start == start.into()
        {
            return Ok(Cow::Borrowed(machine));
        }
        let mut faults = Faults::default();
        let config = lower::lower(self.document.clone(), self.texts.clone(), start.into(), &mut faults);
        match config.and_then(|config| config.machine) {
            Some(machine) if faults.is_empty() => Ok(Cow::Owned(machine)),
            Some(_) | None => Err(faults.into_diagnostics(&self.texts.sources)),
        }
    }

    fn from_texts(mut texts: Texts) -> Result<Self, Diagnostics> {
        let mut sources = texts.file_source();
        let mut faults = Faults::default();
        let document = read::parse(&texts.file, &texts.overrides, &mut sources, &mut faults);
        if !faults.is_empty() {
            return Err(faults.into_diagnostics(&sources));
        }
        let document = read::read(document, &mut faults);
        texts.sources = sources.clone();
        let config =
            document.and_then(|document| lower::lower(document, texts, StartChoice::default(), &mut faults));
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            Some(_) | None => Err(faults.into_diagnostics(&sources)),
        }
    }

    /// What an error at the guest's file begins with: its path, if the error points at another file.
    #[must_use]
    pub fn guest_prefix(&self) -> String {
        let is_another = self.texts.is_written && self.guest.path != self.texts.path;
        if is_another { format!("{}: ", self.guest.path.display()) } else { String::new() }
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
        self.locate(key).0
    }

    /// True if the file or an option sets `key`, so that [`Config::location`] is that of its value.
    #[must_use]
    pub fn sets(&self, key: &str) -> bool {
        self.locate(key).1
    }

    /// Location for `key`, and whether `key` itself is set there.
    fn locate(&self, key: &str) -> (Location, bool) {
        // Parsed again rather than kept: a run without errors, the common one, pays nothing for it.
        let Texts { path, file, overrides, .. } = &self.texts;
        let mut sources = self.texts.file_source();
        let document = read::parse(file, overrides, &mut sources, &mut Faults::default());
        let (span, is_set) = read::locate(&document, key);
        span.and_then(|span| sources.place(&span)).map_or_else(
            || (Location::File(path.display().to_string()), false),
            |place| (Location::Text(place), is_set),
        )
    }
}
