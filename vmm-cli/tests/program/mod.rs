//! vmm-cli, for the tests that run it.

use std::path::Path;

/// Where it was built.
pub(crate) const CLI: &str = env!("CARGO_BIN_EXE_vmm-cli");

/// Whether it is there: not where only the test program was taken along.
pub(crate) fn program_is_here() -> bool {
    let here = Path::new(CLI).exists();
    if !here {
        println!("skipped: the program is not on this host");
    }
    here
}
