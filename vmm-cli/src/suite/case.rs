//! A case: a configuration, one combination of its matrix, and one case of its `[test]`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::note::NotePolicy;
use crate::config::{Config, TestCase, TestFile};
use crate::diagnostic::Diagnostics;

/// A case to run.
#[derive(Debug)]
pub(crate) struct Case {
    /// Name: path of the file, in brackets the combination of the matrix, and after `::` the name of the case in the file.
    pub(crate) name: String,
    /// Path of the file.
    pub(crate) file: PathBuf,
    source: CaseSource,
}

/// Content of the file.
#[derive(Debug)]
enum CaseSource {
    /// Test, number of the variant, and number of the case.
    Variant { test: Arc<TestFile>, variant: usize, case: usize },
    /// The file could not be read.
    Unreadable(Diagnostics),
}

impl Case {
    /// Returns all cases of a file; none if it is no test.
    pub(super) fn from_file(file: PathBuf, notes: NotePolicy) -> Vec<Self> {
        let name = file.display().to_string();
        let test = match TestFile::load(&file, notes) {
            Ok(Some(test)) => Arc::new(test),
            Ok(None) => return Vec::new(),
            Err(problems) => return vec![Self { name, file, source: CaseSource::Unreadable(problems) }],
        };
        let mut cases = Vec::new();
        for (number, variant) in test.variants().iter().enumerate() {
            let name =
                if variant.name.is_empty() { name.clone() } else { format!("{name}[{}]", variant.name) };
            cases.extend(test.cases().iter().enumerate().map(|(case, own)| Self {
                name: if own.is_empty() { name.clone() } else { format!("{name}::{own}") },
                file: file.clone(),
                source: CaseSource::Variant { test: Arc::clone(&test), variant: number, case },
            }));
        }
        cases
    }

    /// Returns the case's own part of the configuration.
    pub(super) fn test<'c>(&self, config: &'c Config) -> Option<&'c TestCase> {
        match &self.source {
            CaseSource::Variant { case, .. } => config.test.as_ref()?.cases.get(*case),
            CaseSource::Unreadable(_) => None,
        }
    }

    /// Returns a key that is the same for all cases of one file and one combination of its matrix; none for a file that
    /// could not be read.
    pub(super) fn fixture_key(&self) -> Option<(*const TestFile, usize)> {
        match &self.source {
            CaseSource::Variant { test, variant, .. } => Some((Arc::as_ptr(test), *variant)),
            CaseSource::Unreadable(_) => None,
        }
    }

    /// Returns true if the configuration may have `test.snapshot-at`.
    pub(super) fn may_have_snapshot(&self) -> bool {
        match &self.source {
            CaseSource::Variant { test, .. } => test.has_test_keys(),
            CaseSource::Unreadable(_) => false,
        }
    }

    /// Returns the configuration of the case.
    ///
    /// # Errors
    /// The configuration has mistakes.
    pub(super) fn config(&self) -> Result<Config, Diagnostics> {
        match &self.source {
            CaseSource::Variant { test, variant, .. } => {
                let variant = test.variants().get(*variant).cloned().unwrap_or_default();
                test.config(&variant)
            }
            CaseSource::Unreadable(problems) => Err(problems.clone()),
        }
    }
}
