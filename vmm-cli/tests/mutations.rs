//! Properties of every configuration text: it is accepted or refused without a panic, and every error can be rendered.

#![expect(clippy::expect_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use vmm_cli::config::{Config, Overrides, template};
use vmm_cli::diagnostic::json;

/// Texts to mutate: all configurations, the template, and the template with its commented lines.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let entries = fs::read_dir(directory).expect("configs/ exists");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut texts: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| fs::read_to_string(path).expect("UTF-8"))
        .collect();
    texts.push(template::text().to_owned());
    texts.push(
        template::text()
            .lines()
            .map(|line| line.strip_prefix('#').unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n"),
    );
    texts
});

/// Values that are invalid for many keys.
const VALUES: [&str; 18] = [
    "0",
    "-1",
    "0xffff_ffff_ffff_ffff",
    "0x1_0000_0000_0000_0000",
    "9223372036854775807",
    "\"\"",
    "\"0x\"",
    "\"ü\"",
    "\"a\\nb`, expected `c\"",
    "true",
    "1.5",
    "nan",
    "2024-02-29T00:00:00Z",
    "[]",
    "[1, \"a\", {}]",
    "{}",
    "{ a = 1 }",
    "\"\"\"\nlong\n\"\"\"",
];

fn check(text: &str, overrides: &Overrides) {
    match Config::from_text(text, Path::new("dir/a.toml"), overrides) {
        Ok(config) => {
            for key in
                ["", "guest.elf", "memory.0.size", "paging.map.7.gva", "a..b", "expect.memory.0.address"]
            {
                let shown = vmm_cli::diagnostic::Diagnostics::from(config.error_at(key, "x"));
                assert!(shown.to_plain().contains("error: x"));
            }
        }
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty(), "refused without a reason");
            assert!(mistakes.to_plain().starts_with("error: "));
            assert!(!mistakes.to_styled().is_empty());
            assert!(serde_json::from_str::<serde_json::Value>(&json::render(&mistakes)).is_ok());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Removes, inserts and replaces bytes.
    #[test]
    fn damaged_text(
        which: Index,
        edits in prop::collection::vec((any::<Index>(), 0..12usize, "[\\PC\n\"'=\\[\\]{}.,#0-9a-z]{0,6}"), 1..5),
    ) {
        let mut text = which.get(TEXTS.as_slice()).clone();
        for (at, length, replacement) in edits {
            let boundaries: Vec<usize> = text.char_indices().map(|(index, _)| index).chain([text.len()]).collect();
            let start = at.index(boundaries.len());
            let end = (start + length).min(boundaries.len() - 1);
            text.replace_range(boundaries[start]..boundaries[end], &replacement);
        }
        check(&text, &Overrides::new());
    }

    /// Replaces values by those of another type or range, and removes and duplicates lines.
    #[test]
    fn damaged_lines(which: Index, edits in prop::collection::vec((any::<Index>(), any::<Index>(), 0..4u8), 1..6)) {
        let mut lines: Vec<String> = which.get(TEXTS.as_slice()).lines().map(str::to_owned).collect();
        for (at, value, kind) in edits {
            let index = at.index(lines.len());
            let value = VALUES[value.index(VALUES.len())];
            let line = lines[index].clone();
            match (kind, line.split_once('=')) {
                (0, _) => lines[index].clear(),
                (1, _) => lines.insert(index, line),
                (_, Some((key, _))) => lines[index] = format!("{key}= {value}"),
                (_, None) => {}
            }
        }
        check(&lines.join("\n"), &Overrides::new());
    }

    /// Sets options with any keys and values.
    #[test]
    fn any_options(
        which: Index,
        sets in prop::collection::vec(
            (
                "(memory|paging|map|guest|expect|0|1|size|elf|registers|rax|mode|\\PC{0,3})(\\.(memory|map|0|1|9|size|gva|elf|rax|\\PC{0,3})){0,3}",
                prop_oneof![prop::sample::select(&VALUES[..]).prop_map(str::to_owned), "\\PC{0,8}"],
            ),
            0..4,
        ),
        mode in "long|real|paged|\\PC{0,5}",
        timeout in "[0-9]{0,22}(ms|s|m|h|\\PC)?",
    ) {
        let mut overrides = Overrides::new();
        for (key, value) in sets {
            overrides.set(&format!("{key}={value}"));
        }
        overrides.mode(&mode);
        overrides.timeout(&timeout);
        check(&TEXTS[which.index(TEXTS.len())], &overrides);
    }

    #[test]
    fn any_text(text in "\\PC*|(.|\n|\r|\u{0}|\u{feff}|\"|=|\\[|\\]){0,60}") {
        check(&text, &Overrides::new());
    }
}
