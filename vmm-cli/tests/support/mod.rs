//! The `vmm-cli` program under test, and the results of its processes.

use std::path::Path;
use std::process::Output;

/// Path of the program under test.
pub(crate) const CLI: &str = env!("CARGO_BIN_EXE_vmm-cli");

/// Returns true if the program exists. On a host to which only the test program was copied, prints that the test is skipped.
pub(crate) fn program_exists() -> bool {
    let exists = Path::new(CLI).exists();
    if !exists {
        println!("skipped: the program is not on this host");
    }
    exists
}

/// Exit status and output of a finished process.
#[derive(Debug)]
pub(crate) struct ProcessResult {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl ProcessResult {
    pub(crate) fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}
