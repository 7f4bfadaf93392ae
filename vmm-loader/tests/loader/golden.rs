//! Comparison of text with golden files. `UPDATE_GOLDEN=1` rewrites them.

use std::path::Path;
use std::{env, fs};

/// Compares `text` with a golden file, after rewriting the file if `UPDATE_GOLDEN=1` is set.
pub(crate) fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/loader/golden").join(name);
    if env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (line, (found, expected)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "{}:{}", path.display(), line + 1);
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "number of lines in {}", path.display());
}
