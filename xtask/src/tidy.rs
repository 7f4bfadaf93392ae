//! `cargo xtask tidy`: checks repository rules that compiler and lints do not check.

mod file_rules;
mod tree_rules;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{FileContext, Result};
use crate::workspace::Workspace;

/// File that the rules check.
struct SourceFile {
    /// Path relative to the repository.
    path: PathBuf,
    text: String,
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
    let mut violations = tree_rules::missing_steps(workspace.root());
    let mut sources = Vec::new();
    collect(workspace.root(), workspace.root(), &mut sources)?;
    for source in &sources {
        for (line, message) in file_rules::violations(source) {
            violations.push(Violation { path: source.path.clone(), line, message });
        }
    }
    violations.extend(tree_rules::wrong_dependencies(&sources));
    violations.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(violations)
}

/// Reads all Rust, TOML and lock files, except in build directories.
fn collect(root: &Path, directory: &Path, sources: &mut Vec<SourceFile>) -> Result<()> {
    for entry in directory.read_dir().while_doing("list", directory)? {
        let path = entry.while_doing("list", directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let built = name == "target" || relative == Path::new("guests/build") || name == ".git";
        if path.is_dir() && !built {
            collect(root, &path, sources)?;
        } else if [".rs", ".toml", ".lock"].iter().any(|end| name.ends_with(end)) {
            let text = fs::read_to_string(&path).while_doing("read", &path)?;
            sources.push(SourceFile { path: relative.to_owned(), text });
        }
    }
    Ok(())
}
