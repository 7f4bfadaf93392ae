//! `cargo xtask tidy`: checks repository rules that compiler and lints do not check.
//!
//! | file | rules |
//! |---|---|
//! | `file_rules.rs` | single files: module comment, length, `unsafe`, file names, configurations, registries |
//! | `item_rules.rs` | items of a crate: first words of doc comments, names of constants, unique type names |
//! | `import_rules.rs` | imports between folders of a crate: direction and circles |
//! | `tree_rules.rs` | the repository: files of the KVM steps, dependencies between packages |

mod file_rules;
mod import_rules;
mod imports;
mod item_rules;
mod tree_rules;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::failure::{Failure, FileContext, Result};
use crate::workspace::Workspace;

/// Crates whose doc comments are checked.
const DOCS_CHECKED: &[&str] = &["kvm-sys-wrap", "vmm-core", "vmm-loader", "vmm-cli", "xtask"];
/// Crates whose file names, constants and type names are checked.
const NAMES_CHECKED: &[&str] = &["kvm-sys-wrap", "vmm-core", "vmm-loader", "vmm-cli", "xtask"];
/// Crates whose imports are checked.
const IMPORTS_CHECKED: &[&str] = &["kvm-sys-wrap", "vmm-loader", "vmm-core", "vmm-cli", "xtask"];

/// File that the rules check.
struct SourceFile {
    /// Path relative to the repository.
    path: PathBuf,
    text: String,
}

impl SourceFile {
    /// Returns true for a Rust file in `src` of one of these crates, except for files that contain only tests.
    fn is_in(&self, crates: &[&str]) -> bool {
        let in_crate = crates.iter().any(|name| self.path.starts_with(Path::new(name).join("src")));
        in_crate && self.path.extension().is_some_and(|extension| extension == "rs") && !self.is_test()
    }

    /// Returns true for a file that contains only tests.
    fn is_test(&self) -> bool {
        self.path.file_stem().is_some_and(|name| name == "tests")
            || self.path.components().any(|part| part.as_os_str() == "tests")
    }

    /// Creates a violation in this file. `line` is 0 for the whole file.
    fn violation(&self, line: usize, message: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, message: message.into() }
    }

    /// Parses the file as Rust.
    fn parse(&self) -> Result<syn::File> {
        syn::parse_file(&self.text).map_err(|error| {
            Failure::new(format!("{}:{}: {error}", self.path.display(), error.span().start().line))
        })
    }
}

/// Violation of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    path: PathBuf,
    /// Line number from 1; 0 for the whole file.
    line: usize,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.message),
        }
    }
}

/// Checks all files of the repository. Returns the violations, sorted by path and line.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Violation>> {
    let files = read_files(workspace.root())?;
    let mut violations: Vec<_> = files.iter().flat_map(file_rules::violations).collect();
    violations.extend(tree_rules::missing_steps(workspace.root()));
    violations.extend(tree_rules::forbidden_dependencies(&files));
    violations.extend(item_rules::violations(&files)?);
    violations.extend(import_rules::violations(&files)?);
    violations.sort_by(|a, b| (&a.path, a.line, &a.message).cmp(&(&b.path, b.line, &b.message)));
    Ok(violations)
}

/// Reads all Rust, TOML and lock files, except in build directories.
fn read_files(root: &Path) -> Result<Vec<SourceFile>> {
    let relative = |entry: &DirEntry| entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned();
    let is_source = |entry: &DirEntry| {
        let is_build = [".git", "target"].iter().any(|name| entry.file_name() == *name);
        !is_build && relative(entry) != Path::new("guests/build")
    };
    let mut files = Vec::new();
    for entry in WalkDir::new(root).into_iter().filter_entry(is_source) {
        let entry = entry.while_doing("list", root)?;
        let extension = entry.path().extension().unwrap_or_default();
        if entry.file_type().is_file() && ["rs", "toml", "lock"].iter().any(|known| extension == *known) {
            let text = fs::read_to_string(entry.path()).while_doing("read", entry.path())?;
            files.push(SourceFile { path: relative(&entry), text });
        }
    }
    Ok(files)
}
