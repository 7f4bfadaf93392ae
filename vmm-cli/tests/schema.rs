//! The JSON schema agrees with the parser: it accepts valid files, rejects files that cannot be parsed, and has the keys of the
//! template.

#![expect(clippy::expect_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vmm_cli::config::{Config, Overrides, json_schema, template};

fn schema() -> Value {
    serde_json::from_str(&json_schema::text()).expect("the schema is JSON")
}

fn toml_files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(directory).expect("the directory can be read");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

fn as_json(path: &Path) -> Option<Value> {
    let text = fs::read_to_string(path).expect("UTF-8");
    let table: toml::Table = toml::from_str(&text).ok()?;
    Some(serde_json::to_value(table).expect("TOML fits in JSON"))
}

#[test]
fn valid_files_validate() {
    let validator = jsonschema::validator_for(&schema()).expect("a valid schema");
    let files = [toml_files("../configs"), toml_files("../configs/crash")].concat();
    assert!(files.len() >= 70, "only {} configurations", files.len());
    for path in files {
        let instance = as_json(&path).expect("TOML");
        if let Err(error) = validator.validate(&instance) {
            panic!("{}: {error} at {}", path.display(), error.instance_path());
        }
    }
    let template: toml::Table = toml::from_str(template::text()).expect("TOML");
    assert!(validator.is_valid(&serde_json::to_value(template).expect("JSON")));
}

/// These files have errors in keys and values, which the schema describes as well as the parser does.
#[test]
fn files_that_cannot_be_parsed_do_not_validate() {
    let validator = jsonschema::validator_for(&schema()).expect("a valid schema");
    let mut count = 0;
    for path in toml_files("tests/bad-toml") {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let unreadable =
            ["key-", "type-", "word-", "duration-", "ring-"].iter().any(|kind| name.starts_with(kind));
        if !unreadable {
            continue;
        }
        let instance = as_json(&path).expect("TOML");
        assert!(!validator.is_valid(&instance), "{} validates", path.display());
        count += 1;
    }
    assert!(count >= 25, "only {count} files");
}

/// The parser refuses every file that the schema rejects, so an editor never complains about a file that runs.
#[test]
fn the_schema_is_no_stricter_than_the_parser() {
    let validator = jsonschema::validator_for(&schema()).expect("a valid schema");
    for value in
        ["\"2MiB\"", "2097152", "\"0x10000\"", "\"1_000B\"", "-1", "2.0", "true", "\"2MB\"", "[]", "{}"]
    {
        for key in
            ["memory.size", "memory.address", "guest.stack", "guest.entry", "limits.time", "limits.exits"]
        {
            let mut overrides = Overrides::new();
            overrides.set(&format!("{key}={value}"));
            let base = "mode = \"long\"\nmemory.size = \"2MiB\"\nguest.elf = \"a.elf\"\n";
            let accepted = Config::from_text(base, Path::new("a.toml"), &overrides).is_ok();
            let text = match key {
                "memory.size" => base.replace("memory.size = \"2MiB\"", &format!("memory.size = {value}")),
                _ => format!("{base}{key} = {value}\n"),
            };
            let instance: toml::Table = toml::from_str(&text).expect("TOML");
            let valid = validator.is_valid(&serde_json::to_value(instance).expect("JSON"));
            assert!(valid || !accepted, "{key} = {value}: the parser accepts it, the schema does not");
        }
    }
}

#[test]
fn the_schema_has_no_null() {
    assert!(!json_schema::text().contains("\"null\""));
}

/// The template and the documentation name every key and every word of the schema, so they show all of them to a user.
#[test]
fn the_template_and_the_documentation_name_every_key_and_word() {
    let schema = schema();
    let (mut keys, mut words) = (Vec::new(), Vec::new());
    collect_names(&schema, &mut keys, &mut words);
    assert!(keys.len() >= 60 && words.len() >= 40, "only {} keys and {} words", keys.len(), words.len());
    let registers = ["rax", "eax", "rdi", "r8"];
    let docs = ["configuration", "machine", "memory", "testing", "virtio", "boot-protocols"]
        .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/{name}.md")));
    let docs = docs.map(|path| fs::read_to_string(path).expect("UTF-8")).concat();
    let mut missing = Vec::new();
    for name in keys.iter().filter(|key| !is_register(key)).chain(&words) {
        let word = |c: char| c.is_alphanumeric() || c == '-';
        let is_in = |text: &str| text.split(|c| !word(c)).any(|part| part == *name);
        assert!(is_in(template::text()), "vmm-cli/src/config/template.toml does not name `{name}`");
        if !is_in(&docs) {
            missing.push(name);
        }
    }
    assert!(
        missing.is_empty(),
        "docs/configuration.md and the pages that it refers to do not name {missing:?}"
    );
    assert!(registers.iter().all(|name| is_register(name)));
}

/// Collects the names of keys, and the values that are one word out of a few.
fn collect_names(value: &Value, keys: &mut Vec<String>, words: &mut Vec<String>) {
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        keys.extend(properties.keys().cloned());
    }
    if let Some(word) = value.get("const").and_then(Value::as_str) {
        words.push(word.to_owned());
    }
    match value {
        Value::Object(object) => object.values().for_each(|inner| collect_names(inner, keys, words)),
        Value::Array(array) => array.iter().for_each(|inner| collect_names(inner, keys, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_register(key: &str) -> bool {
    let long = key.strip_prefix('r').or_else(|| key.strip_prefix('e')).unwrap_or_default();
    let names = ["ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip", "flags"];
    names.contains(&long) || long.parse::<u8>().is_ok()
}

/// Each commented line of the template can be parsed. Only its meaning may conflict with the other lines.
#[test]
fn commented_lines_of_the_template_can_be_parsed() {
    let uncommented: Vec<&str> = template::text()
        .lines()
        .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line))
        .collect();
    let text = uncommented.join("\n");
    let mistakes =
        Config::from_text(&text, Path::new("vm.toml"), &Overrides::new()).expect_err("both elf and flat");
    for mistake in &mistakes.0 {
        for sign in ["unknown", "expected ", "is here for", "needs quotes", "is not a", "unit"] {
            assert!(!mistake.message.starts_with(sign) && !mistake.message.contains("quotes"), "{mistakes}");
        }
    }
}
