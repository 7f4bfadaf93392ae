//! One case: a configuration, or one combination of its matrix, and its name.

use std::path::PathBuf;
use std::sync::Arc;

use vmm_cli::config::{Config, TestFile};
use vmm_cli::diagnostic::Diagnostics;

/// Something to run.
#[derive(Debug)]
pub(crate) struct Case {
    /// The path of the file, and behind it in brackets the combination of the matrix.
    pub(crate) name: String,
    /// The file.
    pub(crate) file: PathBuf,
    content: Content,
}

/// What is in the file.
#[derive(Debug)]
enum Content {
    /// A test, and the number of the variant.
    Variant(Arc<TestFile>, usize),
    /// It could not even be looked at.
    Unreadable(Diagnostics),
}

impl Case {
    /// All cases of one file; none if it is no test.
    pub(super) fn all_of(file: PathBuf) -> Vec<Self> {
        let name = file.display().to_string();
        let test = match TestFile::load(&file) {
            Ok(Some(test)) => Arc::new(test),
            Ok(None) => return Vec::new(),
            Err(problems) => return vec![Self { name, file, content: Content::Unreadable(problems) }],
        };
        let variant = |(number, variant): (usize, &vmm_cli::config::Variant)| Self {
            name: if variant.name.is_empty() { name.clone() } else { format!("{name}[{}]", variant.name) },
            file: file.clone(),
            content: Content::Variant(Arc::clone(&test), number),
        };
        test.variants().iter().enumerate().map(variant).collect()
    }

    /// Its configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn config(&self) -> Result<Config, Diagnostics> {
        match &self.content {
            Content::Variant(test, number) => {
                let variant = test.variants().get(*number).cloned().unwrap_or_default();
                test.config(&variant)
            }
            Content::Unreadable(problems) => Err(problems.clone()),
        }
    }
}
