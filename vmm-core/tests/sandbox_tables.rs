//! The tables of system calls in docs/security.md are those of the sandbox.

#[path = "support/document_tables.rs"]
mod document_tables;
#[path = "support/golden.rs"]
mod golden;

use vmm_core::sandbox::system_calls::{ArgumentRule, Features, IOCTLS, SYSTEM_CALLS, ThreadKind};

fn threads(kinds: &[ThreadKind]) -> String {
    if kinds.len() == ThreadKind::ALL.len() {
        return "all".to_owned();
    }
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

fn runs(features: Features) -> String {
    if features.is_empty() {
        return "all".to_owned();
    }
    let names = features.iter_names().map(|(name, _)| name.to_ascii_lowercase().replace('_', "-"));
    names.collect::<Vec<_>>().join(", ")
}

fn arguments(rule: ArgumentRule) -> String {
    match rule {
        ArgumentRule::Any => String::new(),
        ArgumentRule::Ioctls => "the requests below".to_owned(),
        ArgumentRule::Masked { argument, mask, value } => {
            format!("argument {argument} & {mask:#x} = {value:#x}")
        }
        ArgumentRule::OneOf { argument, values } => {
            let values: Vec<_> = values.iter().map(u32::to_string).collect();
            format!("argument {argument} is {}", values.join(", "))
        }
        ArgumentRule::ThisProcess => "this process".to_owned(),
    }
}

/// `UPDATE_GOLDEN=1` writes the tables.
#[test]
fn the_tables_of_the_documentation_match_the_filters() {
    let mut calls = "| call | arguments | threads | runs | reason |\n|---|---|---|---|---|\n".to_owned();
    for rule in SYSTEM_CALLS {
        let (arguments, threads, runs) =
            (arguments(rule.arguments), threads(rule.threads), runs(rule.features));
        let cells = [arguments.as_str(), &threads, &runs, rule.reason];
        calls += &format!("| `{}` | {} |\n", rule.name, cells.join(" | "));
    }
    let mut requests = "| request | threads | runs | reason |\n|---|---|---|---|\n".to_owned();
    for rule in IOCTLS {
        let (threads, runs) = (threads(rule.threads), runs(rule.features));
        let cells = [threads.as_str(), &runs, rule.reason];
        requests += &format!("| `{}` | {} |\n", rule.name, cells.join(" | "));
    }
    let tables = [("system calls", calls), ("ioctl requests", requests)];
    document_tables::check("security.md", &tables);
}
