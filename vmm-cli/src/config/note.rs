//! Trust in a configuration inside an ELF file (a note).
//!
//! Such a configuration comes from whoever made the file. Without `--trust-note` it is confined: it names only files inside
//! the directory of the ELF file, writes none, and does not ask for what puts the host at risk, such as memory beyond that
//! of the host. Only values from the note are confined; those from the command line are the user's own.

use std::path::{Path, PathBuf};

/// Advice on an error of a confined configuration.
pub(crate) const HELP: &str = "a configuration inside an ELF file may only read files in the directory of that file; if you \
                               trust it, add `--trust-note`";

/// Treatment of a configuration inside an ELF file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NotePolicy {
    /// The configuration is refused.
    #[default]
    Refuse,
    /// The configuration is accepted and confined.
    Confine,
    /// The configuration is treated as a TOML file.
    Trust,
}

/// Origin of a configuration inside an ELF file.
#[derive(Debug, Clone)]
pub(super) struct NoteOrigin {
    /// ELF file: its path as the user named it, or its target if that is a symbolic link.
    file: PathBuf,
    /// Directory of the file, without symbolic links.
    directory: PathBuf,
    is_trusted: bool,
}

impl NoteOrigin {
    /// Finds the directory of the ELF file at `path`.
    ///
    /// # Errors
    /// The path cannot be resolved.
    pub(super) fn new(path: &Path) -> std::io::Result<Self> {
        let real = path.canonicalize()?;
        let directory = real.parent().unwrap_or(Path::new("/")).to_owned();
        // The files that belong to a file are beside it, and not beside a link to it.
        let file = if path.is_symlink() { real } else { path.to_owned() };
        Ok(Self { file, directory, is_trusted: false })
    }

    pub(super) fn with_trust(self, is_trusted: bool) -> Self {
        Self { is_trusted, ..self }
    }

    /// Returns the path of the ELF file, which is not a symbolic link.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the directory that all files of the configuration must be inside, if it is not trusted.
    pub(super) fn confinement(&self) -> Option<&Path> {
        (!self.is_trusted).then_some(&self.directory)
    }
}
