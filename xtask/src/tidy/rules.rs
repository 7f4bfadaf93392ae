//! The rules for single files.

use std::ffi::OsStr;
use std::path::Path;

use super::Source;

/// The longest a file may be without its tests: what one sitting takes in.
const LONGEST: usize = 400;

/// Files that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// The only package with `unsafe`; guests run on the bare machine and cannot do without.
const UNSAFE_PLACES: [&str; 2] = ["kvm-sys-wrap", "guests"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["common", "helper", "helpers", "misc", "util", "utils"];

type Rule = fn(&Source) -> Vec<(usize, String)>;

/// All breaches in a file: its line, or 0 for the file, and what is wrong.
pub(super) fn breaches(source: &Source) -> Vec<(usize, String)> {
    let rules: &[Rule] = match source.path.extension().and_then(OsStr::to_str) {
        Some("rs") => &[head, length, unsafe_code, forbidden_unsafe, ignored_tests, name],
        Some("toml") => &[comment, registries],
        Some("lock") => &[registries],
        Some(_) | None => &[],
    };
    rules.iter().flat_map(|rule| rule(source)).collect()
}

/// A file begins by saying what it is.
fn head(source: &Source) -> Vec<(usize, String)> {
    match source.text.starts_with("//! ") {
        true => Vec::new(),
        false => vec![(1, "a file begins with a //! line that says what it is".to_owned())],
    }
}

fn length(source: &Source) -> Vec<(usize, String)> {
    let lines = code_lines(source).count();
    let excused = LONGER.iter().any(|(path, _reason)| source.path == Path::new(path));
    if lines <= LONGEST || excused || is_test(&source.path) {
        return Vec::new();
    }
    vec![(0, format!("{lines} lines without its tests; {LONGEST} are enough for one idea"))]
}

fn unsafe_code(source: &Source) -> Vec<(usize, String)> {
    if UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let used = source.text.lines().enumerate().filter(|(_, line)| has_unsafe(line));
    used.map(|(index, _)| (index + 1, "unsafe belongs into kvm-sys-wrap".to_owned())).collect()
}

/// Every package but the one forbids it to the compiler's eyes too.
fn forbidden_unsafe(source: &Source) -> Vec<(usize, String)> {
    let is_root = ["src/lib.rs", "src/main.rs"].iter().any(|root| source.path.ends_with(root));
    let excused = UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place));
    if !is_root || excused || source.text.contains("#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    vec![(0, "a package's root has #![forbid(unsafe_code)]".to_owned())]
}

/// `cargo xtask test` runs ignored tests where there is a KVM; there is no other reason to ignore one.
fn ignored_tests(source: &Source) -> Vec<(usize, String)> {
    let attribute = |line: &str| {
        let line = line.trim_start();
        line.starts_with("#[ignore") && !line.starts_with("#[ignore = \"needs /dev/kvm")
    };
    let ignored = source.text.lines().enumerate().filter(|(_, line)| attribute(line));
    ignored.map(|(index, _)| (index + 1, "a test is ignored only as \"needs /dev/kvm\"".to_owned())).collect()
}

fn name(source: &Source) -> Vec<(usize, String)> {
    let name = source.path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    match EMPTY_NAMES.contains(&name) {
        true => vec![(0, format!("\"{name}\" says nothing about what is inside"))],
        false => Vec::new(),
    }
}

/// A configuration explains itself.
fn comment(source: &Source) -> Vec<(usize, String)> {
    if !source.path.starts_with("configs") || source.text.starts_with("# ") {
        return Vec::new();
    }
    vec![(1, "a configuration begins with a comment that says what it shows".to_owned())]
}

/// Whoever clones this repository gets its dependencies from the public registry, and from nowhere else.
fn registries(source: &Source) -> Vec<(usize, String)> {
    const PUBLIC: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let foreign = |line: &str| match source.path.extension().and_then(OsStr::to_str) {
        Some("lock") => line.starts_with("source = ") && line != PUBLIC,
        _ if source.path.starts_with(".cargo") => line.starts_with("[source") || line.starts_with("[registr"),
        _ => false,
    };
    let lines = source.text.lines().enumerate().filter(|(_, line)| foreign(line));
    lines.map(|(index, _)| (index + 1, "dependencies come from crates.io".to_owned())).collect()
}

/// The lines before the module of unit tests, which comes last in a file.
fn code_lines(source: &Source) -> impl Iterator<Item = &str> {
    source.text.lines().take_while(|line| *line != "#[cfg(test)]")
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name == "tests")
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// Whether a line of code, as opposed to a comment, has the word.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '"');
    words.any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.into(), text: text.to_owned() };
        breaches(&source).into_iter().map(|(line, message)| format!("{line}: {message}")).collect()
    }

    /// Exactly one breach, with this text.
    fn breach(path: &str, text: &str, expected: &str) {
        let found = found(path, text);
        assert!(matches!(found.as_slice(), [one] if one.contains(expected)), "{path}: {found:?}");
    }

    #[test]
    fn clean_files_have_no_breach() {
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
    fn each_rule_finds_its_breach() {
        breach("vmm-core/src/a.rs", "use std::fmt;\n", "1: a file begins");
        breach("vmm-core/src/a.rs", "//! A.\nlet x = unsafe { y() };\n", "2: unsafe belongs");
        breach("vmm-core/src/lib.rs", "//! A.\n", "0: a package's root");
        breach("vmm-core/src/a.rs", "//! A.\n    #[ignore]\n", "2: a test is ignored");
        breach("vmm-core/src/utils.rs", "//! A.\n", "0: \"utils\" says nothing");
        breach("configs/a.toml", "mode = \"long\"\n", "1: a configuration begins");
        breach("Cargo.lock", "\nsource = \"registry+https://example.org/index\"\n", "2: dependencies come");
        breach(".cargo/config.toml", "[source.crates-io]\n", "1: dependencies come");
    }

    #[test]
    fn tests_do_not_count_as_length() {
        let long = "//! A.\n".to_owned() + &"x\n".repeat(400);
        breach("vmm-core/src/a.rs", &long, "0: 401 lines");
        let tested = "//! A.\n#[cfg(test)]\n".to_owned() + &"x\n".repeat(400);
        assert!(found("vmm-core/src/a.rs", &tested).is_empty());
        assert!(found("vmm-core/tests/a.rs", &long).is_empty());
    }
}
