//! The rules for the tree as a whole: where a reader finds each step, and who may know whom.

use std::path::{Path, PathBuf};

use super::{Breach, Source};

/// The steps of the flow, in its order: each has a file of its name in `kvm-sys-wrap/src`.
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

/// Packages, and those that they may not depend on: the loader knows no KVM, the machine no files and no TOML.
const STRANGERS: [(&str, &[&str]); 4] = [
    ("kvm-sys-wrap", &["vmm-core", "vmm-loader", "vmm-cli", "toml", "goblin", "clap"]),
    ("vmm-loader", &["kvm-sys-wrap", "kvm-ioctls", "kvm-bindings", "vmm-core", "vmm-cli", "toml", "clap"]),
    ("vmm-core", &["kvm-ioctls", "vmm-loader", "vmm-cli", "toml", "goblin", "clap"]),
    ("xtask", &["kvm-sys-wrap", "vmm-core", "vmm-loader", "vmm-cli"]),
];

/// Steps that have no file.
pub(super) fn missing_steps(root: &Path) -> Vec<Breach> {
    let files = STEPS.iter().map(|step| PathBuf::from(format!("kvm-sys-wrap/src/{step}.rs")));
    let missing = files.filter(|file| !root.join(file).is_file());
    missing
        .map(|path| Breach { path, line: 0, message: "this step of the flow has no file".to_owned() })
        .collect()
}

/// Dependencies that cross a border. What only tests need may.
pub(super) fn wrong_dependencies(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (package, strangers) in STRANGERS {
        let path = Path::new(package).join("Cargo.toml");
        let Some(manifest) = sources.iter().find(|source| source.path == path) else { continue };
        let table = manifest.text.parse::<toml::Table>().unwrap_or_default();
        let dependencies = table.get("dependencies").and_then(toml::Value::as_table);
        for name in dependencies.into_iter().flat_map(toml::Table::keys) {
            if strangers.contains(&name.as_str()) {
                let message = format!("{package} may not depend on {name}");
                breaches.push(Breach { path: path.clone(), line: 0, message });
            }
        }
    }
    breaches
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
            missing.iter().map(|breach| breach.path.as_path()).collect::<Vec<_>>(),
            [Path::new("kvm-sys-wrap/src/tss.rs")]
        );
    }

    #[test]
    fn the_loader_may_not_know_kvm() {
        let text =
            "[dependencies]\ngoblin = \"1\"\nkvm-ioctls = \"1\"\n[dev-dependencies]\nvmm-core = \"1\"\n";
        let manifest = Source { path: "vmm-loader/Cargo.toml".into(), text: text.to_owned() };
        let breaches = wrong_dependencies(&[manifest]);
        assert_eq!(breaches.len(), 1);
        assert_eq!(breaches[0].message, "vmm-loader may not depend on kvm-ioctls");
    }
}
