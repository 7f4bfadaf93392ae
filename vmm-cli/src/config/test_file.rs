//! Configuration as a test: its variants from `[matrix]` and its cases from `[test]`.
//!
//! Reads three tables of the file only, so that a search for tests reports no problems of other files. A variant becomes a
//! [`Config`] like any other file: a value of the matrix is an override, and a problem points to it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, ValueDeserializer};

use super::load::{self, Loaded};
use super::lower::MAX_CASES;
use super::note::{NoteOrigin, NotePolicy};
use super::problem::{ConfigProblem, ConfigProblems};
use super::schema;
use super::source::Sources;
use super::values::Matrix;
use super::{Config, Overrides};
use crate::diagnostic::Diagnostics;

/// Maximum number of combinations of a matrix, against mistakes.
const MAX_VARIANTS: usize = 4096;

/// Configuration file that is a test, with its variants.
#[derive(Debug, Clone)]
pub struct TestFile {
    path: PathBuf,
    text: String,
    note: Option<NoteOrigin>,
    variants: Vec<Variant>,
    cases: Vec<String>,
    has_test_keys: bool,
}

/// Combination of the values of the matrix; without a matrix, the only and empty one.
#[derive(Debug, Clone, Default)]
pub struct Variant {
    /// Name of the variant, such as `memory.size=2MiB,mode=long`; empty without a matrix.
    pub name: String,
    overrides: Overrides,
}

impl TestFile {
    /// Reads the configuration file at `path` if it is a test. Returns `None` if it is not a test: a kernel, or a TOML file
    /// with neither `[expect]` nor `[test]`. A file with a TOML syntax error counts as a test, and [`TestFile::config`]
    /// reports the error.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its matrix is too large.
    pub fn load(path: &Path, notes: NotePolicy) -> Result<Option<Self>, Diagnostics> {
        let (text, implied, note) = match load::load(path)? {
            Loaded::Configuration(text) => (text, Overrides::new(), None),
            Loaded::Noted(load::Note { text, implied, origin }) => (text, implied, Some(origin)),
            Loaded::Kernel(_) => return Ok(None),
        };
        let implied = implied.with_notes(notes);
        let (document, errors) = DeTable::parse_recoverable(&text);
        let table = document.get_ref();
        if errors.is_empty() && !table.contains_key("expect") && !table.contains_key("test") {
            return Ok(None);
        }
        // A matrix that cannot be read is reported with the file's other problems.
        let entry = table.get("matrix");
        let matrix = entry.and_then(|entry| Matrix::deserialize(ValueDeserializer::from(entry.clone())).ok());
        let matrix = matrix.unwrap_or_default();
        let count = matrix.0.iter().try_fold(1_usize, |count, (_, values)| count.checked_mul(values.len()));
        if count.is_none_or(|count| count > MAX_VARIANTS) {
            let mut sources = Sources::default();
            sources.add(&path.display().to_string(), &text);
            let message = format!("the matrix has more than {MAX_VARIANTS} combinations");
            let mut problems = ConfigProblems::default();
            problems.push(entry.map_or_else(
                || ConfigProblem::in_file(&message),
                |entry| ConfigProblem::new(&entry.span(), &message),
            ));
            return Err(problems.into_diagnostics(&sources));
        }
        let variants = expand(&matrix, implied);
        let cases = cases(table.get("test"));
        let has_test_keys = table.contains_key("test")
            || matrix.0.iter().any(|(key, _)| key == "test" || key.starts_with("test."));
        Ok(Some(Self { path: path.to_owned(), text, note, variants, cases, has_test_keys }))
    }

    /// Returns the variants of the test, in the order of the values in the file.
    #[must_use]
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// Returns the names of the cases of each variant; without `[test]`, a single empty name.
    #[must_use]
    pub fn cases(&self) -> &[String] {
        &self.cases
    }

    /// Returns true if the file, or its matrix, has keys of `[test]`.
    #[must_use]
    pub const fn has_test_keys(&self) -> bool {
        self.has_test_keys
    }

    /// Returns the configuration of one variant of the test.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn config(&self, variant: &Variant) -> Result<Config, Diagnostics> {
        match &self.note {
            Some(origin) => Config::from_note(&self.text, &self.path, &variant.overrides, origin.clone()),
            None => Config::from_text(&self.text, &self.path, &variant.overrides),
        }
    }
}

/// Returns the names of the cases, in the order of the lowered cases. A table that cannot be read counts as one case, which
/// reports the problem.
fn cases(entry: Option<&toml::Spanned<toml::de::DeValue<'_>>>) -> Vec<String> {
    let test = entry.and_then(|entry| schema::Test::deserialize(ValueDeserializer::from(entry.clone())).ok());
    let schema::Test { case, count, .. } = test.unwrap_or_default();
    match (case, count) {
        (Some(case), _) if !case.value.is_empty() => {
            let name = |at: &schema::Spanned<schema::TestCaseTable>| {
                at.value.name.as_ref().map(|name| name.value.clone())
            };
            case.value.iter().map(|at| name(at).unwrap_or_default()).collect()
        }
        (None, Some(count)) if (1..=MAX_CASES).contains(&count.value.0) => {
            (0..count.value.0).map(|number| number.to_string()).collect()
        }
        (_, _) => vec![String::new()],
    }
}

/// Returns all combinations, the values of the last key changing fastest, each after the implied overrides.
fn expand(matrix: &Matrix, implied: Overrides) -> Vec<Variant> {
    let mut variants = vec![Variant { name: String::new(), overrides: implied }];
    for (key, values) in &matrix.0 {
        let with = |variant: &Variant, value: &toml::Value| {
            let Variant { mut name, mut overrides } = variant.clone();
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let comma = if name.is_empty() { "" } else { "," };
            name = format!("{name}{comma}{key}={shown}");
            overrides.matrix(key, &value.to_string());
            Variant { name, overrides }
        };
        variants =
            variants.iter().flat_map(|variant| values.iter().map(|value| with(variant, value))).collect();
    }
    variants
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use vmm_core::spec::mode::Mode;

    use super::*;

    fn tests(text: &str) -> Option<TestFile> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        fs::write(&path, text).unwrap();
        TestFile::load(&path, NotePolicy::Refuse).unwrap()
    }

    const MACHINE: &str =
        "mode = \"long\"\nmemory.size = \"2MiB\"\nguest = { flat = \"g\", address = 0x8000 }\n";

    #[test]
    fn a_test_is_what_has_an_expect_or_cannot_be_read() {
        assert!(tests(MACHINE).is_none());
        assert!(tests("[package]\nname = \"a\"\n").is_none());
        assert_eq!(tests(&format!("{MACHINE}[expect]\n")).unwrap().variants().len(), 1);
        let broken = tests("mode = \n").unwrap();
        assert!(broken.config(&broken.variants()[0]).is_err());
    }

    #[test]
    fn a_value_of_the_matrix_becomes_one_of_the_machine() {
        let text = format!(
            "{MACHINE}[expect]\n[matrix]\nmode = [\"real\", \"pae\"]\nmemory.size = [\"1MiB\", 0x10000]\n"
        );
        let tests = tests(&text).unwrap();
        let names: Vec<_> = tests.variants().iter().map(|variant| variant.name.as_str()).collect();
        let four = [
            "memory.size=1MiB,mode=real",
            "memory.size=1MiB,mode=pae",
            "memory.size=65536,mode=real",
            "memory.size=65536,mode=pae",
        ];
        assert_eq!(names, four);
        let config = tests.config(&tests.variants()[3]).unwrap();
        let machine = config.machine(config.start.complete().unwrap()).unwrap();
        assert_eq!((machine.boot.mode, machine.memory[0].size), (Mode::Pae, 0x10000));
    }

    #[test]
    fn a_mistake_in_the_matrix_points_at_it() {
        let with = |matrix: &str| {
            let tests = tests(&format!("{MACHINE}[expect]\n[matrix]\n{matrix}\n")).unwrap();
            tests.config(&tests.variants()[0]).unwrap_err().to_plain()
        };
        let wrong = with("mode = [\"lnog\"]");
        assert!(wrong.contains("[matrix]:1:8") && wrong.contains("did you mean `long`"), "{wrong}");
        assert!(with("mode = \"long\"").contains("a.toml:6:8"));
    }

    #[test]
    fn a_matrix_that_is_too_large_is_refused() {
        let axis: Vec<u32> = (0..100).collect();
        let text = format!("{MACHINE}[expect]\n[matrix]\na = {axis:?}\nb = {axis:?}\n");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        fs::write(&path, text).unwrap();
        let refused = TestFile::load(&path, NotePolicy::Refuse).unwrap_err();
        assert_eq!(refused.0[0].message, "the matrix has more than 4096 combinations");
    }

    proptest! {
        #[test]
        fn every_combination_is_there_once(sizes in prop::collection::vec(1_i64..5, 0..4)) {
            let axis = |(number, size): (usize, &i64)| {
                (format!("k{number}"), (0..*size).map(toml::Value::Integer).collect())
            };
            let variants = expand(&Matrix(sizes.iter().enumerate().map(axis).collect()), Overrides::new());
            let names: std::collections::BTreeSet<_> = variants.iter().map(|variant| variant.name.clone()).collect();
            prop_assert_eq!(i64::try_from(names.len()).unwrap(), sizes.iter().product::<i64>());
            prop_assert_eq!(names.len(), variants.len());
        }
    }
}
