//! Any text as a configuration: it is taken or refused, and every mistake can be shown.
//!
//! What follows a NUL is given as `--set` options, one a line. Good seeds: `configs/` and `vmm-cli/tests/bad-toml/`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vmm_cli::config::{Config, Overrides};
use vmm_cli::diagnostic::json;

fuzz_target!(|text: &str| {
    let (file, options) = text.split_once('\0').unwrap_or((text, ""));
    let mut overrides = Overrides::new();
    for assignment in options.lines() {
        overrides.set(assignment);
    }
    if let Err(mistakes) = Config::from_text(file, Path::new("fuzz.toml"), &overrides) {
        assert!(!mistakes.0.is_empty());
        assert!(!mistakes.to_plain().is_empty());
        assert!(!mistakes.to_styled().is_empty());
        assert!(!json::render(&mistakes).is_empty());
    }
});
