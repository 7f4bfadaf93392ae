//! Rules for single files.

use std::ffi::OsStr;
use std::path::Path;

use super::{NAMES_CHECKED, SourceFile, Violation};

/// Maximum number of lines of a file without its tests.
const MAX_LINES: usize = 600;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Packages with `unsafe` code. Guests run without an operating system and need it.
const UNSAFE_PACKAGES: [&str; 2] = ["kvm-sys-wrap", "guests"];

/// File names that do not describe the content.
const EMPTY_NAMES: [&str; 6] = ["common", "helper", "helpers", "misc", "util", "utils"];

/// File names that no specification and no other VMM uses, each with a name that a reader would search for.
const PRIVATE_NAMES: &[(&str, &str)] = &[
    ("abilities", "capabilities"),
    ("all_stop", "stop_barrier"),
    ("asleep", "idle"),
    ("at", "spanned"),
    ("battery", "remote"),
    ("by_hand", "emulate"),
    ("collect", "coalesced_pio"),
    ("complaint", "serde_error"),
    ("detours", "handler_breakpoints"),
    ("dialogue", "console_script"),
    ("findings", "lint"),
    ("foreign", "file_type"),
    ("forget", "mmu_invalidate"),
    ("hang_words", "hang_summary"),
    ("judgement", "verdict"),
    ("killing", "victim"),
    ("kills", "kill_test"),
    ("landing", "ring3_trap"),
    ("left", "leaks"),
    ("look", "inspect"),
    ("moment", "cpu_state"),
    ("narrow", "bisect"),
    ("outside", "io_thread"),
    ("place", "address_expr"),
    ("places", "symbolize"),
    ("problems", "layout_diagnostics"),
    ("pulse", "idle_timer"),
    ("quiet", "null_ports"),
    ("reach", "run_until"),
    ("reasons", "control_bits"),
    ("refusal", "emulation_failure"),
    ("remarks", "notes"),
    ("say", "stderr"),
    ("staged", "sync_regs"),
    ("stopped", "inspect"),
    ("storm", "interrupt_storm"),
    ("together", "smp"),
    ("told", "boot_info"),
    ("track", "execution"),
    ("trail", "trace"),
    ("way", "load_method"),
    ("words", "summary"),
    ("zeros", "sparse"),
];

/// Rule for a file: returns line numbers (0 for the whole file) and messages.
type FileRule = fn(&SourceFile) -> Vec<(usize, String)>;

/// Returns all violations in a file.
pub(super) fn violations(source: &SourceFile) -> Vec<Violation> {
    let rules: &[FileRule] = match source.path.extension().and_then(OsStr::to_str) {
        Some("rs") => &[
            module_doc,
            length,
            unsafe_code,
            forbid_attribute,
            ignored_tests,
            empty_name,
            private_name,
            mod_rs,
        ],
        Some("toml") => &[config_comment, registries],
        Some("lock") => &[registries],
        Some(_) | None => &[],
    };
    let found = rules.iter().flat_map(|rule| rule(source));
    found.map(|(line, message)| source.violation(line, message)).collect()
}

/// A file begins with a module comment.
fn module_doc(source: &SourceFile) -> Vec<(usize, String)> {
    match source.text.starts_with("//! ") {
        true => Vec::new(),
        false => vec![(1, "a file begins with a //! line that says what it is".to_owned())],
    }
}

/// A file without its tests has at most [`MAX_LINES`] lines.
fn length(source: &SourceFile) -> Vec<(usize, String)> {
    let lines = code_lines(source).count();
    let excused = LONG_FILES.iter().any(|(path, _reason)| source.path == Path::new(path));
    if lines <= MAX_LINES || excused || source.is_test() {
        return Vec::new();
    }
    vec![(0, format!("{lines} lines without its tests; {MAX_LINES} are enough for one idea"))]
}

/// Only some packages contain `unsafe` code.
fn unsafe_code(source: &SourceFile) -> Vec<(usize, String)> {
    if UNSAFE_PACKAGES.iter().any(|package| source.path.starts_with(package)) {
        return Vec::new();
    }
    let used = source.text.lines().enumerate().filter(|(_, line)| has_unsafe(line));
    used.map(|(index, _)| (index + 1, "unsafe belongs into kvm-sys-wrap".to_owned())).collect()
}

/// The root of each other package forbids `unsafe` code.
fn forbid_attribute(source: &SourceFile) -> Vec<(usize, String)> {
    let is_root = ["src/lib.rs", "src/main.rs"].iter().any(|root| source.path.ends_with(root));
    let excused = UNSAFE_PACKAGES.iter().any(|package| source.path.starts_with(package));
    if !is_root || excused || source.text.contains("#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    vec![(0, "a package's root has #![forbid(unsafe_code)]".to_owned())]
}

/// A test is ignored only because it needs KVM: `cargo xtask test` runs these where KVM is available.
fn ignored_tests(source: &SourceFile) -> Vec<(usize, String)> {
    let attribute = |line: &str| {
        let line = line.trim_start();
        line.starts_with("#[ignore") && !line.starts_with("#[ignore = \"needs /dev/kvm")
    };
    let ignored = source.text.lines().enumerate().filter(|(_, line)| attribute(line));
    ignored.map(|(index, _)| (index + 1, "a test is ignored only as \"needs /dev/kvm\"".to_owned())).collect()
}

/// A file name describes the content.
fn empty_name(source: &SourceFile) -> Vec<(usize, String)> {
    let name = source.path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    match EMPTY_NAMES.contains(&name) {
        true => vec![(0, format!("\"{name}\" does not describe the content"))],
        false => Vec::new(),
    }
}

/// A file name is a word of the field: a metaphor can be neither searched for nor guessed.
fn private_name(source: &SourceFile) -> Vec<(usize, String)> {
    let name = source.path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    match PRIVATE_NAMES.iter().find(|(private, _)| *private == name) {
        Some((_, better)) if source.is_in(NAMES_CHECKED) => {
            vec![(
                0,
                format!("\"{name}\" is a private metaphor; use a word of the field, such as \"{better}\""),
            )]
        }
        Some(_) | None => Vec::new(),
    }
}

/// A module with submodules is `foo.rs` beside `foo/`, so that editors and error messages show its name.
fn mod_rs(source: &SourceFile) -> Vec<(usize, String)> {
    match source.path.ends_with("mod.rs") && source.is_in(NAMES_CHECKED) {
        true => vec![(0, "the module foo is in foo.rs beside foo/, not in foo/mod.rs".to_owned())],
        false => Vec::new(),
    }
}

/// A configuration begins with a comment.
fn config_comment(source: &SourceFile) -> Vec<(usize, String)> {
    if !source.path.starts_with("configs") || source.text.starts_with("# ") {
        return Vec::new();
    }
    vec![(1, "a configuration begins with a comment that says what it shows".to_owned())]
}

/// All dependencies come from crates.io.
fn registries(source: &SourceFile) -> Vec<(usize, String)> {
    const PUBLIC: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let foreign = |line: &str| match source.path.extension().and_then(OsStr::to_str) {
        Some("lock") => line.starts_with("source = ") && line != PUBLIC,
        _ if source.path.starts_with(".cargo") => line.starts_with("[source") || line.starts_with("[registr"),
        _ => false,
    };
    let lines = source.text.lines().enumerate().filter(|(_, line)| foreign(line));
    lines.map(|(index, _)| (index + 1, "dependencies come from crates.io".to_owned())).collect()
}

/// Returns the lines before the module of unit tests, which is the last item of a file.
fn code_lines(source: &SourceFile) -> impl Iterator<Item = &str> {
    source.text.lines().take_while(|line| *line != "#[cfg(test)]")
}

/// Returns true if a line has the word `unsafe` outside of a comment.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '"');
    words.any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = SourceFile { path: path.into(), text: text.to_owned() };
        violations(&source)
            .into_iter()
            .map(|violation| format!("{}: {}", violation.line, violation.message))
            .collect()
    }

    /// Asserts that there is exactly one violation, with this text.
    fn violation(path: &str, text: &str, expected: &str) {
        let found = found(path, text);
        assert!(matches!(found.as_slice(), [one] if one.contains(expected)), "{path}: {found:?}");
    }

    #[test]
    fn clean_files_have_no_violation() {
        for (path, text) in [
            ("vmm-core/src/mode.rs", "//! Modes.\n// unsafe is elsewhere\nfn f() {} // unsafe\n"),
            ("vmm-core/src/lib.rs", "//! All.\n#![forbid(unsafe_code)]\n"),
            ("kvm-sys-wrap/src/lib.rs", "//! KVM.\nunsafe fn f() {}\n"),
            ("guests/x/src/main.rs", "//! Guest.\nunsafe fn f() {}\n"),
            ("vmm-core/tests/a.rs", "//! Tests.\n#[ignore = \"needs /dev/kvm\"]\n"),
            ("configs/a.toml", "# Shows.\nmode = \"long\"\n"),
            ("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n"),
        ] {
            assert_eq!(found(path, text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn each_rule_finds_its_violation() {
        violation("vmm-core/src/a.rs", "use std::fmt;\n", "1: a file begins");
        violation("vmm-core/src/a.rs", "//! A.\nlet x = unsafe { y() };\n", "2: unsafe belongs");
        violation("vmm-core/src/lib.rs", "//! A.\n", "0: a package's root");
        violation("vmm-core/src/a.rs", "//! A.\n    #[ignore]\n", "2: a test is ignored");
        violation("vmm-core/src/utils.rs", "//! A.\n", "0: \"utils\" does not describe");
        violation("xtask/src/told.rs", "//! A.\n", "0: \"told\" is a private metaphor");
        violation("xtask/src/a/mod.rs", "//! A.\n", "0: the module foo");
        violation("configs/a.toml", "mode = \"long\"\n", "1: a configuration begins");
        violation(
            "Cargo.lock",
            "\nsource = \"registry+https://example.org/index\"\n",
            "2: dependencies come",
        );
        violation(".cargo/config.toml", "[source.crates-io]\n", "1: dependencies come");
    }

    #[test]
    fn tests_do_not_count_as_length() {
        let long = "//! A.\n".to_owned() + &"x\n".repeat(600);
        violation("vmm-core/src/a.rs", &long, "0: 601 lines");
        let tested = "//! A.\n#[cfg(test)]\n".to_owned() + &"x\n".repeat(600);
        assert!(found("vmm-core/src/a.rs", &tested).is_empty());
        assert!(found("vmm-core/tests/a.rs", &long).is_empty());
    }
}
