//! Golden files: expected texts that are checked in. `UPDATE_GOLDEN=1` writes them again; read the difference then.
//!
//! One file for all packages: the others have a symbolic link to it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Texts to compare with the golden files in a directory.
pub(crate) struct Goldens {
    directory: PathBuf,
    texts: BTreeMap<PathBuf, String>,
}

impl Goldens {
    /// Creates an empty collection for a directory below `tests` of this package.
    pub(crate) fn new(directory: &str) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        Self { directory: tests.join(directory), texts: BTreeMap::new() }
    }

    /// Adds a text, to be compared with the file `name`.
    pub(crate) fn with(mut self, name: impl AsRef<Path>, text: impl Into<String>) -> Self {
        self.texts.insert(self.directory.join(name), text.into());
        self
    }

    /// Compares all texts with their files.
    ///
    /// # Panics
    ///
    /// Panics if a text differs from its file, or if there is another file with one of the `extensions`.
    pub(crate) fn check(self, extensions: &[&str]) {
        let is_golden = |path: &PathBuf| {
            path.extension().is_some_and(|found| extensions.iter().any(|known| found == *known))
        };
        let mut files = BTreeSet::new();
        if !extensions.is_empty() {
            list(&self.directory, &mut files);
        }
        let others = files.into_iter().filter(|path| is_golden(path) && !self.texts.contains_key(path));
        if env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            others.for_each(|path| fs::remove_file(path).unwrap());
            for (path, text) in &self.texts {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            return;
        }
        let mut problems: Vec<String> =
            others.map(|path| format!("{}: no test has this text", path.display())).collect();
        for (path, text) in &self.texts {
            match fs::read_to_string(path) {
                Ok(golden) => problems
                    .extend(difference(&golden, text).map(|text| format!("{}:{text}", path.display()))),
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        let count = problems.len();
        assert!(
            problems.is_empty(),
            "{count} golden files differ (UPDATE_GOLDEN=1 writes them):\n{}",
            problems.join("\n")
        );
    }
}

/// Adds all files in a directory tree.
fn list(directory: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else {
            files.insert(path);
        }
    }
}

/// Returns the first line that differs, with its number.
fn difference(golden: &str, text: &str) -> Option<String> {
    let (mut expected, mut found) = (golden.split_inclusive('\n'), text.split_inclusive('\n'));
    (1..).find_map(|number| match (expected.next(), found.next()) {
        (None, None) => Some(None),
        (expected, found) if expected == found => None,
        (expected, found) => {
            let line = |line: Option<&str>| line.map_or("no line".to_owned(), |line| format!("{line:?}"));
            Some(Some(format!("{number}: expected {}, found {}", line(expected), line(found))))
        }
    })?
}
