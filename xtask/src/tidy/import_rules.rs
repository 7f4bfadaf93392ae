//! Rules for imports between the folders of a crate: from higher to lower levels only, and without circles.
//!
//! A folder is a module at the top of a crate, `foo.rs` with `foo/`. Modules of a single file at the top form one folder, `src`.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{Import, ImportGraph, circles};
use super::{IMPORTS_CHECKED, SourceFile, Violation};
use crate::failure::Result;

/// Folders of a crate by level, the lowest first. A folder imports only from lower levels, and from its own without circles.
const LEVELS: &[(&str, &[&[&str]])] = &[
    (
        "kvm-sys-wrap",
        &[
            &["address", "address_map", "call", "capability", "io_bytes", "ptrace"],
            &["error"],
            &["kvm_run"],
            &["exit", "kick", "observe", "ioctl_request", "system_call_filter", "sandbox_probe"],
            &["host_memory", "saved_state", "fork", "ofd_lock"],
            &["vm_pool"],
            &["dev_kvm"],
            &["create_vm"],
            &["tss", "memory", "mmu_invalidate"],
            &["create_vcpu"],
            &["sregs", "regs", "cpuid", "msr", "vcpu_state", "sync_regs"],
            &["irqchip", "interrupt_state", "external_interrupt"],
            &["run", "coalesced_pio", "emulate", "debug", "translate", "stats"],
            &["pooled_vcpu"],
        ],
    ),
    (
        "vmm-loader",
        &[
            &["address", "bytes", "display"],
            &["memory_map", "protocol", "register"],
            &["segment", "relocation", "symbols", "elf_class"],
            &["plan"],
            &["entry", "bounds", "load_strategy"],
            &["elf", "flat"],
            &["load"],
            &["error"],
            &["boot"],
            &["fuzzing"],
        ],
    ),
    (
        "vmm-core",
        &[
            &["spec"],
            &["cpu"],
            &["encoding", "disassembly", "sandbox"],
            &["devices"],
            &["firmware"],
            &["paging"],
            &["layout"],
            &["initial_state"],
            &["machine"],
            &["snapshot"],
            &["record"],
            &["autopsy"],
            &["debugger"],
            &["explain"],
            &["fuzzing"],
        ],
    ),
];

/// Maximum number of import circles inside one folder.
const MAX_CIRCLES: usize = 5;

/// Returns the violations in all files of the checked crates.
pub(super) fn violations(files: &[SourceFile]) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for name in IMPORTS_CHECKED {
        let graph = ImportGraph::new(name, files)?;
        if let Some((_, levels)) = LEVELS.iter().find(|(known, _)| known == name) {
            violations.extend(against_levels(&graph, levels));
        }
        violations.extend(circles_of_folders(&graph));
        violations.extend(circles_in_folders(&graph));
    }
    Ok(violations)
}

/// Returns the folders without a level, and the imports from a higher level.
fn against_levels(graph: &ImportGraph<'_>, levels: &[&[&str]]) -> Vec<Violation> {
    let level = |folder: &str| levels.iter().position(|folders| folders.contains(&folder));
    let mut violations = Vec::new();
    for (index, file) in graph.files.iter().enumerate() {
        let folder = graph.folder(index);
        let is_top = file.path.components().count() == 3 || file.path.ends_with("mod.rs");
        if is_top && level(&folder).is_none() && !["lib", "main"].contains(&folder.as_str()) {
            let message =
                format!("`{folder}` has no level; add it to LEVELS in xtask/src/tidy/import_rules.rs");
            violations.push(file.violation(0, message));
        }
    }
    for import in &graph.imports {
        let (from, to) = (graph.folder(import.from), graph.folder(import.to));
        if let (Some(lower), Some(higher)) = (level(&from), level(&to))
            && lower < higher
        {
            let message = format!("`{from}` is below `{to}` and must not import from it");
            violations.extend(at(graph, import, message));
        }
    }
    violations
}

/// Returns the circles between folders, each with its imports.
fn circles_of_folders(graph: &ImportGraph<'_>) -> Vec<Violation> {
    let folders = |import: &Import| (graph.folder(import.from), graph.folder(import.to));
    let edges = graph.imports.iter().map(folders).filter(|(from, to)| from != to).collect();
    let mut violations = Vec::new();
    let is_single_file = |folder: &String| files_in(graph, folder) == 1;
    for circle in circles(&edges) {
        if circle.iter().all(is_single_file) {
            continue;
        }
        let names = circle.iter().cloned().collect::<Vec<_>>().join(", ");
        for import in &graph.imports {
            let (from, to) = folders(import);
            if from != to && circle.contains(&from) && circle.contains(&to) {
                let message = format!("import of `{to}` is part of a circle between the folders {names}");
                violations.extend(at(graph, import, message));
            }
        }
    }
    violations
}

/// Returns the folders with more than [`MAX_CIRCLES`] circles between their files.
fn circles_in_folders(graph: &ImportGraph<'_>) -> Vec<Violation> {
    let mut edges: BTreeMap<String, BTreeSet<(usize, usize)>> = BTreeMap::new();
    for import in &graph.imports {
        let (mut folder, mut other) = (graph.folder(import.from), graph.folder(import.to));
        for name in [&mut folder, &mut other] {
            if files_in(graph, name) == 1 {
                *name = "src".to_owned();
            }
        }
        if folder == other {
            edges.entry(folder).or_default().insert((import.from, import.to));
        }
    }
    let mut violations = Vec::new();
    for (folder, edges) in edges {
        let circles = circles(&edges);
        if circles.len() <= MAX_CIRCLES {
            continue;
        }
        for circle in &circles {
            let files: Vec<_> = circle.iter().filter_map(|index| graph.files.get(*index)).collect();
            let names: Vec<_> = files.iter().map(|file| file.path.display().to_string()).collect();
            let message = format!(
                "one of {} import circles in `{folder}`, of which {MAX_CIRCLES} are allowed: {}",
                circles.len(),
                names.join(", ")
            );
            violations.extend(files.first().map(|file| file.violation(0, message)));
        }
    }
    violations
}

/// Returns the number of files in a folder.
fn files_in(graph: &ImportGraph<'_>, folder: &str) -> usize {
    (0..graph.files.len()).filter(|index| graph.folder(*index) == folder).count()
}

/// Creates a violation at the line of an import.
fn at(graph: &ImportGraph<'_>, import: &Import, message: String) -> Option<Violation> {
    graph.files.get(import.from).map(|file| file.violation(import.line, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> Vec<SourceFile> {
        let file = |(path, text): &(&str, &str)| SourceFile {
            path: format!("vmm-core/src/{path}").into(),
            text: (*text).to_owned(),
        };
        files.iter().map(file).collect()
    }

    fn found(files: &[SourceFile], rule: impl Fn(&ImportGraph<'_>) -> Vec<Violation>) -> Vec<String> {
        let graph = ImportGraph::new("vmm-core", files).unwrap();
        rule(&graph).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lower_folder_must_not_import_from_a_higher_one() {
        let files = files(&[
            ("a.rs", "use crate::b::B;\n"),
            ("b.rs", "mod c;\n"),
            ("b/c.rs", "use crate::a::A;\n"),
            ("d.rs", "use crate::a::A;\n"),
            ("lib.rs", "pub use a::A;\npub use b::B;\n"),
        ]);
        let levels: &[&[&str]] = &[&["a"], &["b"]];
        assert_eq!(
            found(&files, |graph| against_levels(graph, levels)),
            [
                "vmm-core/src/d.rs: `d` has no level; add it to LEVELS in xtask/src/tidy/import_rules.rs",
                "vmm-core/src/a.rs:1: `a` is below `b` and must not import from it",
            ]
        );
    }

    #[test]
    fn folders_have_no_circle() {
        let files = files(&[
            ("a.rs", "mod b;\n"),
            ("a/b.rs", "use crate::c::C;\n"),
            ("c.rs", "\nuse crate::a::A;\nuse crate::d::D;\n"),
            ("d.rs", ""),
        ]);
        assert_eq!(
            found(&files, circles_of_folders),
            [
                "vmm-core/src/a/b.rs:1: import of `c` is part of a circle between the folders a, c",
                "vmm-core/src/c.rs:2: import of `a` is part of a circle between the folders a, c",
            ]
        );
    }

    #[test]
    fn modules_of_a_single_file_are_one_folder() {
        let files = files(&[("a.rs", "use crate::b::B;\n"), ("b.rs", "use crate::a::A;\n")]);
        assert!(found(&files, circles_of_folders).is_empty());
    }

    #[test]
    fn a_folder_has_few_circles() {
        let pair = |number: usize| {
            let (one, two) = (format!("a/x{number}.rs"), format!("a/y{number}.rs"));
            let text = |other: &str| format!("use super::{other}{number}::T;\n");
            [(one, text("y")), (two, text("x"))]
        };
        let circles = |count: usize| {
            let pairs: Vec<_> = (0..count).flat_map(pair).collect();
            let pairs: Vec<_> = pairs.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            found(&files(&pairs), circles_in_folders)
        };
        assert!(circles(5).is_empty());
        let six = circles(6);
        assert_eq!(six.len(), 6);
        let first = "vmm-core/src/a/x0.rs: one of 6 import circles in `a`, of which 5 are allowed: \
                     vmm-core/src/a/x0.rs, vmm-core/src/a/y0.rs";
        assert_eq!(six.first().map(String::as_str), Some(first));
    }

    #[test]
    fn each_folder_has_one_level() {
        for (name, levels) in LEVELS {
            let folders: Vec<_> = levels.concat();
            let unique: BTreeSet<_> = folders.iter().collect();
            assert_eq!(unique.len(), folders.len(), "{name}");
        }
    }
}
