//! Rules for single files.

use std::ffi::OsStr;
use std::path::Path;

use super::SourceFile;

/// Maximum number of lines of a file without its tests.
const MAX_LINES: usize = 400;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Packages with `unsafe` code. Guests run without an operating system and need it.
const UNSAFE_PACKAGES: [&str; 2] = ["kvm-sys-wrap", "guests"];

/// File names that do not describe the content.
const FORBIDDEN_NAMES: [&str; 6] = ["common", "helper", "helpers", "misc", "util", "utils"];

/// Rule for a file: returns line numbers (0 for the whole file) and messages.
type FileRule = fn(&SourceFile) -> Vec<(usize, String)>;

/// Returns all violations in a file: line number (0 for the whole file) and message.
pub(super) fn violations(source: &SourceFile) -> Vec<(usize, String)> {
    let file_rules: &[FileRule] = match source.path.extension().and_then(OsStr::to_str) {
        Some("rs") => &[module_doc, length, unsafe_code, forbid_attribute, ignored_tests, file_name],
        Some("toml") => &[config_comment, registries],
        Some("lock") => &[registries],
        Some(_) | None => &[],
    };
    file_rules.iter().flat_map(|rule| rule(source)).collect()
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
    if lines <= MAX_LINES || excused || is_test(&source.path) {
        return Vec::new();
    }
    vec![(0, format!("{lines} lines without its tests; {MAX_LINES} are enough for one idea"))]
}

/// Only some packages contain `unsafe` code.
fn unsafe_code(source: &SourceFile) -> Vec<(usize, String)> {
    if UNSAFE_PACKAGES.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let used = source.text.lines().enumerate().filter(|(_, line)| has_unsafe(line));
    used.map(|(index, _)| (index + 1, "unsafe belongs into kvm-sys-wrap".to_owned())).collect()
}

/// The root of each other package forbids `unsafe` code.
fn forbid_attribute(source: &SourceFile) -> Vec<(usize, String)> {
    let is_root = ["src/lib.rs", "src/main.rs"].iter().any(|root| source.path.ends_with(root));
    let excused = UNSAFE_PACKAGES.iter().any(|place| source.path.starts_with(place));
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
fn file_name(source: &SourceFile) -> Vec<(usize, String)> {
    let name = source.path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    match FORBIDDEN_NAMES.contains(&name) {
        true => vec![(0, format!("\"{name}\" does not describe the content"))],
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

/// Returns true for a file that contains only tests.
fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name == "tests")
        || path.components().any(|part| part.as_os_str() == "tests")
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
        violations(&source).into_iter().map(|(line, message)| format!("{line}: {message}")).collect()
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
        let long = "//! A.\n".to_owned() + &"x\n".repeat(400);
        violation("vmm-core/src/a.rs", &long, "0: 401 lines");
        let tested = "//! A.\n#[cfg(test)]\n".to_owned() + &"x\n".repeat(400);
        assert!(found("vmm-core/src/a.rs", &tested).is_empty());
        assert!(found("vmm-core/tests/a.rs", &long).is_empty());
    }
}
