//! Golden files: expected texts in the repository. `UPDATE_GOLDEN=1` writes them; read the difference before a commit.
//!
//! All packages use this file, through symbolic links.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

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
        let mut others = if extensions.is_empty() { Vec::new() } else { list(&self.directory) };
        others.retain(|path| {
            let extension = path.extension().unwrap_or_default();
            extensions.iter().any(|known| extension == *known) && !self.texts.contains_key(path)
        });
        let update = env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
        let result = |path: &Path, result: io::Result<Option<String>>| match result {
            Ok(difference) => difference.map(|difference| format!("{}:{difference}", path.display())),
            Err(error) => Some(format!("{}: {error}", path.display())),
        };
        let texts = self.texts.iter().filter_map(|(path, text)| {
            result(path, if update { write(path, text) } else { compare(path, text) })
        });
        let others = others.iter().filter_map(|path| {
            let no_text = || Ok(Some(" no test has this text".to_owned()));
            result(path, if update { fs::remove_file(path).map(|()| None) } else { no_text() })
        });
        let problems: Vec<String> = texts.chain(others).collect();
        let count = problems.len();
        assert!(
            problems.is_empty(),
            "{count} golden files differ (UPDATE_GOLDEN=1 writes them):\n{}",
            problems.join("\n")
        );
    }
}

/// Returns all files in a directory tree.
fn list(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { list(&path) } else { vec![path] }).collect()
}

fn write(path: &Path, text: &str) -> io::Result<Option<String>> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, text).map(|()| None)
}

fn compare(path: &Path, text: &str) -> io::Result<Option<String>> {
    fs::read_to_string(path).map(|golden| difference(&golden, text))
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
