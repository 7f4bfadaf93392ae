//! `cargo xtask tidy`: what this repository asks of its files beyond what compilers and lints check.

mod rules;
mod tree;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Result, While};
use crate::workspace::Workspace;

/// A file that a rule looks at.
struct Source {
    /// Relative to the repository.
    path: PathBuf,
    text: String,
}

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    path: PathBuf,
    /// Counted from 1; 0 if the whole file is meant.
    line: usize,
    message: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.message),
        }
    }
}

/// Looks at all files of the repository.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Breach>> {
    let mut breaches = tree::missing_steps(workspace.root());
    let mut sources = Vec::new();
    collect(workspace.root(), workspace.root(), &mut sources)?;
    for source in &sources {
        for (line, message) in rules::breaches(source) {
            breaches.push(Breach { path: source.path.clone(), line, message });
        }
    }
    breaches.extend(tree::wrong_dependencies(&sources));
    breaches.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(breaches)
}

/// Reads all text that has rules, leaving out what is built or hidden.
fn collect(root: &Path, directory: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in directory.read_dir().while_doing("list", directory)? {
        let path = entry.while_doing("list", directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let built = name == "target" || relative == Path::new("guests/build") || name == ".git";
        if path.is_dir() && !built {
            collect(root, &path, sources)?;
        } else if [".rs", ".toml", ".lock"].iter().any(|end| name.ends_with(end)) {
            let text = fs::read_to_string(&path).while_doing("read", &path)?;
            sources.push(Source { path: relative.to_owned(), text });
        }
    }
    Ok(())
}
