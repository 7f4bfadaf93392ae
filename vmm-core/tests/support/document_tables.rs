//! Tables of the documentation that are made of declarations. `UPDATE_GOLDEN=1` writes them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use crate::golden::Goldens;

/// Compares tables with those of a page in `docs`. Each table stands there between two comments with its name.
///
/// # Panics
///
/// Panics if a table differs, or if the page lacks it.
pub(crate) fn check(page: &str, tables: &[(&str, String)]) {
    let path = format!("../../docs/{page}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut text = fs::read_to_string(tests.join(&path)).unwrap();
    for (name, table) in tables {
        let (start, end) = (format!("<!-- table: {name} -->\n"), format!("<!-- end: {name} -->\n"));
        let from = text.find(&start).expect(name) + start.len();
        let to = text.find(&end).expect(name);
        text.replace_range(from..to, table);
    }
    Goldens::new("").with(path, text).check(&[]);
}
