//! `cargo xtask guests`: builds the guests in `guests/` into `guests/build/`.
//!
//! An output is rebuilt when a file of its guest's folder or of `guests/include/` is newer. Cargo decides for guests in Rust.

mod compile;
mod manifest;
mod rust;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use walkdir::WalkDir;

use crate::failure::{FileContext, Result};
use crate::progress::say;
use crate::workspace::Workspace;
use manifest::{Guest, GuestOutput};
use rust::RustTarget;

/// Result of a build of all guests.
#[derive(Debug, Default)]
pub(crate) struct BuiltGuests {
    /// Number of files that were built.
    pub(crate) new: usize,
    /// Number of files that were up to date.
    pub(crate) fresh: usize,
    /// Files that cannot be built on this machine, each with the reason.
    pub(crate) left_out: Vec<(String, String)>,
}

/// Builds all guests that are not up to date.
pub(crate) fn build(workspace: &Workspace) -> Result<BuiltGuests> {
    let guests = workspace.path("guests");
    let build = guests.join("build");
    fs::create_dir_all(&build).while_doing("create", &build)?;
    let headers = newest(&guests.join("include"))?;
    let mut target = RustTarget::default();
    let mut built = BuiltGuests::default();
    for guest in manifest::read_all(&guests)? {
        let sources = newest(&guest.folder)?.max(headers);
        for output in &guest.outputs {
            let destination = build.join(output.file());
            // Cargo itself finds out whether a package is up to date.
            let cargo = matches!(output, GuestOutput::Rust(_));
            if !cargo && modified(&destination).is_some_and(|time| time >= sources) {
                built.fresh += 1;
                continue;
            }
            if let (true, Err(reason)) = (cargo, if cargo { target.require() } else { Ok(()) }) {
                built.left_out.push((output.file().to_owned(), reason));
                continue;
            }
            if build_one(output, &guest, workspace, &destination)? {
                built.new += 1;
            } else {
                built.fresh += 1;
            }
        }
    }
    Ok(built)
}

/// Checks that guests in Rust can be built, and adds the target if possible. The error is the reason.
pub(crate) fn rust_target() -> std::result::Result<(), String> {
    RustTarget::default().require()
}

/// Prints what was built and what was left out; nothing if all guests were up to date.
pub(crate) fn report(built: &BuiltGuests) {
    if built.new > 0 {
        say(format_args!("guests: {} built, {} up to date", built.new, built.fresh));
    }
    for (file, reason) in &built.left_out {
        say(format_args!("guests: {file} is left out: {reason}"));
    }
}

/// Builds one file. Returns true if it changed.
fn build_one(output: &GuestOutput, guest: &Guest, workspace: &Workspace, destination: &Path) -> Result<bool> {
    // In the same file system as its destination, so that the rename is atomic.
    let scratch = tempfile::Builder::new().prefix(".build-").tempdir_in(workspace.path("guests/build"));
    let scratch = scratch.while_doing("create a directory for", destination)?;
    let file = match output {
        GuestOutput::Elf32(linked) | GuestOutput::Elf64(linked) => {
            compile::elf(linked, &guest.folder, scratch.path())?
        }
        GuestOutput::Flat(linked) => compile::flat(linked, &guest.folder, scratch.path())?,
        GuestOutput::Rust(package) => {
            let program = rust::build(package, &guest.folder, workspace)?;
            if modified(destination) >= modified(&program) {
                return Ok(false);
            }
            let copy = scratch.path().join("guest.elf");
            fs::copy(&program, &copy).while_doing("copy", &program)?;
            copy
        }
    };
    fs::rename(&file, destination).while_doing("write", destination)?;
    Ok(true)
}

/// Returns the latest modification time in a tree; the Unix epoch if there is no such file.
fn newest(path: &Path) -> Result<SystemTime> {
    let mut latest = SystemTime::UNIX_EPOCH;
    for entry in WalkDir::new(path).into_iter().filter(|_| path.exists()) {
        let entry = entry.while_doing("list", path)?;
        latest = latest.max(modified(entry.path()).unwrap_or(latest));
    }
    Ok(latest)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|data| data.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_file_of_a_tree_counts() {
        let tree = tempfile::tempdir().unwrap();
        let deep = tree.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let file = fs::File::create(deep.join("c")).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(1000);
        file.set_modified(later).unwrap();
        assert_eq!(newest(tree.path()).unwrap(), file.metadata().unwrap().modified().unwrap());
        assert_eq!(newest(&tree.path().join("none")).unwrap(), SystemTime::UNIX_EPOCH);
    }
}
