//! One case: a configuration, one combination of its matrix, one case of its `[test]`; and its name.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, TestCase, TestFile};
use crate::diagnostic::Diagnostics;

use super::boot_snapshot::SharedFixture;

/// Something to run.
#[derive(Debug)]
pub(crate) struct Case {
    /// The path of the file, behind it in brackets the combination of the matrix, and behind `::` the case of the file.
    pub(crate) name: String,
    /// The file.
    pub(crate) file: PathBuf,
    source: CaseSource,
}

/// What is in the file.
#[derive(Debug)]
enum CaseSource {
    /// A test, the number of the variant, the number of the case, and what the variant's cases have in common.
    Variant { test: Arc<TestFile>, variant: usize, case: usize, fixture: SharedFixture },
    /// It could not even be looked at.
    Unreadable(Diagnostics),
}

impl Case {
    /// All cases of one file; none if it is no test.
    pub(super) fn from_file(file: PathBuf) -> Vec<Self> {
        let name = file.display().to_string();
        let test = match TestFile::load(&file) {
            Ok(Some(test)) => Arc::new(test),
            Ok(None) => return Vec::new(),
            Err(problems) => return vec![Self { name, file, source: CaseSource::Unreadable(problems) }],
        };
        let mut cases = Vec::new();
        for (number, variant) in test.variants().iter().enumerate() {
            let fixture = SharedFixture::default();
            let name =
                if variant.name.is_empty() { name.clone() } else { format!("{name}[{}]", variant.name) };
            cases.extend(test.cases().iter().enumerate().map(|(case, own)| Self {
                name: if own.is_empty() { name.clone() } else { format!("{name}::{own}") },
                file: file.clone(),
                source: CaseSource::Variant {
                    test: Arc::clone(&test),
                    variant: number,
                    case,
                    fixture: fixture.clone(),
                },
            }));
        }
        cases
    }

    /// What is different in it, by its configuration.
    pub(super) fn test<'c>(&self, config: &'c Config) -> Option<&'c TestCase> {
        match &self.source {
            CaseSource::Variant { case, .. } => config.test.as_ref()?.cases.get(*case),
            CaseSource::Unreadable(_) => None,
        }
    }

    /// What it has in common with other cases, if there are any.
    pub(super) fn fixture(&self) -> Option<SharedFixture> {
        match &self.source {
            CaseSource::Variant { test, fixture, .. } if test.cases().len() > 1 => Some(fixture.clone()),
            CaseSource::Variant { .. } | CaseSource::Unreadable(_) => None,
        }
    }

    /// Its configuration.
    ///
    /// # Errors
    /// What is wrong with it.
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
