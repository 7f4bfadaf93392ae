//! Finds the cases under some paths, sorted and without duplicates.
//!
//! Directories are searched for files named `*.toml`, and for ELF files, which may contain a configuration. Who searches a
//! directory may not know of the latter, so they are only listed, unless their configurations are trusted. Hidden files and
//! directories named `target` are skipped. Links to directories are not followed, so the search ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::case::Case;
use crate::config::note::NotePolicy;
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

/// Result of a search.
#[derive(Debug)]
pub(crate) struct DiscoveredCases {
    /// Cases, sorted by the names of their files.
    pub(crate) cases: Vec<Case>,
    /// Files that were named and are no tests.
    pub(crate) not_tests: Vec<PathBuf>,
    /// ELF files that are tests by a configuration inside, and are left out because they were not named.
    pub(crate) unnamed_notes: Vec<PathBuf>,
}

/// Searches `paths`. `trusts_notes` includes ELF files that were not named.
///
/// # Errors
/// A path does not exist, or a directory cannot be read.
pub(crate) fn discover(paths: &[PathBuf], trusts_notes: bool) -> Result<DiscoveredCases, Diagnostics> {
    let mut named = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        let data = path.metadata().map_err(|error| error_at(path, &error))?;
        if data.is_dir() { search(path, &mut files)? } else { named.push(path.clone()) }
    }
    files.extend(named.iter().cloned());
    files.sort();
    files.dedup();
    let mut found = DiscoveredCases { cases: Vec::new(), not_tests: Vec::new(), unnamed_notes: Vec::new() };
    let notes = if trusts_notes { NotePolicy::Trust } else { NotePolicy::Confine };
    for file in files {
        let cases = Case::from_file(file.clone(), notes);
        let is_named = named.contains(&file);
        if cases.is_empty() && is_named {
            found.not_tests.push(file);
        } else if !cases.is_empty() && !is_named && !trusts_notes && !is_toml(&file) {
            found.unnamed_notes.push(file);
        } else {
            found.cases.extend(cases);
        }
    }
    Ok(found)
}

/// Adds the TOML and ELF files below `top`.
fn search(top: &Path, files: &mut Vec<PathBuf>) -> Result<(), Diagnostic> {
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(|error| error_at(&directory, &error))? {
            let entry = entry.map_err(|error| error_at(&directory, &error))?;
            let name = entry.file_name();
            if is_hidden(&name) {
                continue;
            }
            // Files in `.` are named without it.
            let path = if directory == Path::new(".") { PathBuf::from(&name) } else { entry.path() };
            let kind = entry.file_type().map_err(|error| error_at(&path, &error))?;
            if kind.is_dir() {
                if name != "target" {
                    directories.push(path);
                }
            } else if path.is_file() && (is_toml(&path) || is_elf(&path)) {
                files.push(path);
            }
        }
    }
    Ok(())
}

fn is_toml(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("toml"))
}

/// Returns true for ELF files with a UTF-8 name. A configuration could not refer to other names.
fn is_elf(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
    read.is_ok() && vmm_loader::is_elf(&start) && path.file_name().is_some_and(|name| name.to_str().is_some())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

fn error_at(path: &Path, error: &std::io::Error) -> Diagnostic {
    let status =
        if error.kind() == std::io::ErrorKind::NotFound { Status::Configuration } else { Status::Host };
    Diagnostic::error(status, format!("cannot search for tests: {error}"))
        .at(Location::File(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_test_is_found_in_order_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        for folder in ["b", "target", ".git"] {
            fs::create_dir(top.join(folder)).unwrap();
        }
        let test = "mode = \"long\"\n[expect]\n";
        for file in ["z.toml", "b/y.toml", "target/x.toml", ".git/w.toml", ".v.toml", "u.txt"] {
            fs::write(top.join(file), test).unwrap();
        }
        fs::write(top.join("none.toml"), "mode = \"long\"\n").unwrap();
        fs::write(top.join("m.toml"), format!("{test}[matrix]\nring = [0, 3]\n")).unwrap();
        std::os::unix::fs::symlink(top, top.join("b/loop")).unwrap();

        let paths = [top.to_owned(), top.join("z.toml"), top.join("none.toml")];
        let found = discover(&paths, false).unwrap();
        let names: Vec<_> =
            found.cases.iter().map(|case| case.name.strip_prefix(top.to_str().unwrap()).unwrap()).collect();
        assert_eq!(names, ["/b/y.toml", "/m.toml[ring=0]", "/m.toml[ring=3]", "/z.toml"]);
        assert_eq!(found.not_tests, [top.join("none.toml")]);
        assert_eq!(discover(&[top.join("gone")], false).unwrap_err().status(), Status::Configuration);
    }
}
