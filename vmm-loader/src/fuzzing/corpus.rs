//! Files of the fuzz targets' corpora as tests. All packages use this file, through symbolic links.

use std::fs;
use std::path::Path;

/// Name of a fuzz target, and its property.
type NamedProperty<'a> = (&'a str, fn(&[u8]));

/// Calls each property, by its name, without bytes and with each file of its corpus.
pub(super) fn check(properties: &[NamedProperty<'_>]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, property) in properties {
        property(&[]);
        // A package of this crate has no corpus.
        for entry in fs::read_dir(directory.join(name)).into_iter().flatten() {
            property(&fs::read(entry.unwrap().path()).unwrap());
        }
    }
}
