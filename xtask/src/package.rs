//! `cargo xtask package`: packages the crates for publication, and checks what is in the packages.
//!
//! The packages are unpacked into one workspace, where each uses the others and not the sources of the repository. All targets
//! are checked there with the artifacts of dependencies that clippy made. The verification of `cargo package` takes minutes,
//! since it builds all dependencies for each package. With a kept target directory it is wrong: it checks a package with
//! sources of the others that an earlier call has unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use toml::{Table, Value};

use crate::failure::{Failure, FileContext, Result};
use crate::process::output;
use crate::workspace::Workspace;

/// Output of `cargo metadata` (Cargo reference, "cargo metadata"). Other fields are ignored.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Registries that the package may be published to; `None` for all.
    publish: Option<Vec<String>>,
}

impl Package {
    /// Returns `NAME-VERSION`, the name of the package's file and of the directory in it.
    fn file_stem(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    fn is_published(&self) -> bool {
        self.publish.as_ref().is_none_or(|registries| !registries.is_empty())
    }
}

/// Packages the crates and checks all targets of the packages. Changes that are not committed are included.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let metadata =
        output(workspace.cargo().args(["metadata", "--offline", "--no-deps", "--format-version", "1"]))?;
    let Metadata { mut packages, target_directory } = serde_json::from_slice(&metadata)
        .map_err(|error| Failure::new(format!("cannot read cargo's metadata: {error}")))?;
    packages.retain(Package::is_published);

    let directory = workspace.path("target/packages");
    if directory.exists() {
        fs::remove_dir_all(&directory).while_doing("remove", &directory)?;
    }
    fs::create_dir_all(&directory).while_doing("create", &directory)?;
    make(workspace, &packages, &directory)?;
    for package in &packages {
        // With new times: those in a package never change, and cargo would take a changed file for an old one.
        let file = directory.join(format!("package/{}.crate", package.file_stem()));
        let mut tar = Command::new("tar");
        output(
            tar.args(["--extract", "--gzip", "--touch", "--file"])
                .arg(file)
                .arg("--directory")
                .arg(&directory),
        )?;
    }
    let manifest = directory.join("Cargo.toml");
    let root = workspace.path("Cargo.toml");
    let text = fs::read_to_string(&root).while_doing("read", &root)?;
    let root = text.parse().while_doing("parse", &root)?;
    fs::write(&manifest, check_manifest(&packages, &root).to_string()).while_doing("write", &manifest)?;
    let lock = workspace.path("Cargo.lock");
    fs::copy(&lock, directory.join("Cargo.lock")).while_doing("copy", &lock)?;

    let mut check = workspace.cargo();
    check.args(["check", "--quiet", "--offline", "--workspace", "--all-targets", "--manifest-path"]);
    succeed(check.arg(manifest).arg("--target-dir").arg(target_directory))
}

/// Makes the package files, in `package/` of a directory.
fn make(workspace: &Workspace, packages: &[Package], directory: &Path) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["package", "--quiet", "--offline", "--allow-dirty", "--no-metadata", "--no-verify"]);
    cargo.arg("--target-dir").arg(directory);
    for package in packages {
        cargo.args(["--package", &package.name]);
    }
    succeed(&mut cargo)
}

/// Returns the manifest of a workspace with the unpacked packages, where each uses the others. Profiles and resolver are those
/// of the repository, so that artifacts of dependencies are the same.
fn check_manifest(packages: &[Package], root: &Table) -> Table {
    let mut workspace = Table::new();
    let stems = packages.iter().map(|package| Value::String(package.file_stem()));
    workspace.insert("members".to_owned(), Value::Array(stems.collect()));
    let resolver = root.get("workspace").and_then(|workspace| workspace.get("resolver"));
    workspace.extend(resolver.map(|resolver| ("resolver".to_owned(), resolver.clone())));

    let path =
        |package: &Package| Table::from_iter([("path".to_owned(), Value::String(package.file_stem()))]);
    let paths = packages.iter().map(|package| (package.name.clone(), Value::Table(path(package))));
    let patch = Table::from_iter([("crates-io".to_owned(), Value::Table(paths.collect()))]);

    let mut manifest = Table::new();
    manifest.insert("workspace".to_owned(), Value::Table(workspace));
    manifest.insert("patch".to_owned(), Value::Table(patch));
    manifest.extend(root.get("profile").map(|profile| ("profile".to_owned(), profile.clone())));
    manifest
}

/// Runs a cargo command that prints its findings to standard error.
fn succeed(cargo: &mut Command) -> Result<()> {
    let status = cargo.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("cargo ended with {status}"))),
        Err(error) => Err(Failure::new(format!("cannot start cargo: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_use_each_other() {
        let package = |name: &str, publish: Option<Vec<String>>| Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            publish,
        };
        let mut packages = vec![package("a", None), package("task", Some(Vec::new())), package("b", None)];
        packages.retain(Package::is_published);
        let root =
            "profile.dev.debug = 1\n[workspace]\nresolver = \"3\"\nmembers = [\"a\", \"b\", \"task\"]\n";
        let expected = "
            [workspace]
            members = [\"a-0.1.0\", \"b-0.1.0\"]
            resolver = \"3\"
            [patch.crates-io]
            a = { path = \"a-0.1.0\" }
            b = { path = \"b-0.1.0\" }
            [profile.dev]
            debug = 1
        ";
        assert_eq!(check_manifest(&packages, &root.parse().unwrap()), expected.parse::<Table>().unwrap());
    }
}
