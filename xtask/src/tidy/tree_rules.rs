//! Rules for the whole repository: files of the KVM steps, and dependencies between packages.

use std::path::{Path, PathBuf};

use super::{SourceFile, Violation};

/// Steps of the KVM flow, in order. Each has a file of this name in `kvm-sys-wrap/src`.
const STEPS: [&str; 12] = [
    "dev_kvm",
    "create_vm",
    "tss",
    "memory",
    "create_vcpu",
    "kvm_run",
    "sregs",
    "regs",
    "cpuid",
    "run",
    "exit",
    "translate",
];

/// Forbidden dependencies of each package: the loader uses no KVM, the machine no file formats and no TOML.
const FORBIDDEN_DEPS: [(&str, &[&str]); 4] = [
    ("kvm-sys-wrap", &["vmm-core", "vmm-loader", "vmm-cli", "toml", "goblin", "clap"]),
    ("vmm-loader", &["kvm-sys-wrap", "kvm-ioctls", "kvm-bindings", "vmm-core", "vmm-cli", "toml", "clap"]),
    ("vmm-core", &["kvm-ioctls", "vmm-cli", "toml", "goblin", "linux-loader", "clap"]),
    ("xtask", &["kvm-sys-wrap", "vmm-core", "vmm-loader", "vmm-cli"]),
];

/// Returns the steps without a file.
pub(super) fn missing_steps(root: &Path) -> Vec<Violation> {
    let files = STEPS.iter().map(|step| PathBuf::from(format!("kvm-sys-wrap/src/{step}.rs")));
    let missing = files.filter(|file| !root.join(file).is_file());
    missing
        .map(|path| Violation { path, line: 0, message: "this step of the flow has no file".to_owned() })
        .collect()
}

/// Returns forbidden dependencies. Development dependencies are not checked.
pub(super) fn forbidden_dependencies(sources: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (package, forbidden) in FORBIDDEN_DEPS {
        let path = Path::new(package).join("Cargo.toml");
        let Some(manifest) = sources.iter().find(|source| source.path == path) else { continue };
        let table = manifest.text.parse::<toml::Table>().unwrap_or_default();
        let dependencies = table.get("dependencies").and_then(toml::Value::as_table);
        for name in dependencies.into_iter().flat_map(toml::Table::keys) {
            if forbidden.contains(&name.as_str()) {
                let message = format!("{package} may not depend on {name}");
                violations.push(Violation { path: path.clone(), line: 0, message });
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_step_is_named() {
        let root = tempfile::tempdir().unwrap();
        let sources = root.path().join("kvm-sys-wrap/src");
        std::fs::create_dir_all(&sources).unwrap();
        for step in STEPS.iter().filter(|step| **step != "tss") {
            std::fs::write(sources.join(format!("{step}.rs")), "").unwrap();
        }
        let missing = missing_steps(root.path());
        assert_eq!(
            missing.iter().map(|violation| violation.path.as_path()).collect::<Vec<_>>(),
            [Path::new("kvm-sys-wrap/src/tss.rs")]
        );
    }

    #[test]
    fn a_forbidden_dependency_is_found() {
        let text =
            "[dependencies]\ngoblin = \"1\"\nkvm-ioctls = \"1\"\n[dev-dependencies]\nvmm-core = \"1\"\n";
        let manifest = SourceFile { path: "vmm-loader/Cargo.toml".into(), text: text.to_owned() };
        let violations = forbidden_dependencies(&[manifest]);
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].message, "vmm-loader may not depend on kvm-ioctls");
    }
}
