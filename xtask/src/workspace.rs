//! Paths of the repository, and cargo builds in it.

use std::borrow::Cow;
use std::io::{BufRead, BufReader};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FileContext, Result};
use crate::process::quote;
use crate::progress::say;

/// The repository, by its top directory.
pub(crate) struct Workspace {
    root: PathBuf,
}

/// A test program built by cargo.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TestProgram {
    /// Directory of the package: the working directory of its tests.
    pub(crate) package: PathBuf,
    target: CargoTarget,
    /// Path of the executable.
    pub(crate) program: PathBuf,
}

impl TestProgram {
    /// Returns the name of a test with package and target, such as `vmm-core/on_kvm::halts`.
    pub(crate) fn full_name(&self, test: &str) -> String {
        format!("{}/{}::{test}", self.package_name(), self.target.name)
    }

    /// Returns the `cargo test` command that runs one test.
    pub(crate) fn cargo_test(&self, test: &str) -> String {
        let target = match self.target.kind.first().map(String::as_str) {
            Some(kind @ ("bin" | "test" | "example" | "bench")) => format!("--{kind} {}", self.target.name),
            Some(_) | None => "--lib".to_owned(),
        };
        let package = self.package_name();
        format!("cargo test -p {package} {target} -- --exact {} --include-ignored", quote(test))
    }

    fn package_name(&self) -> Cow<'_, str> {
        self.package.file_name().unwrap_or_default().to_string_lossy()
    }
}

/// A line of `cargo build --message-format=json` (Cargo reference, "External tools"). Other fields are ignored.
#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    #[serde(default)]
    fresh: bool,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<CargoTarget>,
    #[serde(default)]
    profile: CargoProfile,
}

#[derive(Default, Deserialize)]
struct CargoProfile {
    test: bool,
}

/// Cargo target that a test program was built from: a library, a program or a file under `tests/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct CargoTarget {
    name: String,
    kind: Vec<String>,
}

impl Workspace {
    /// Returns the repository that this xtask was built in. Cargo rebuilds xtask if the repository moves.
    pub(crate) fn here() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: package.parent().unwrap_or(package).to_owned() }
    }

    /// Returns the absolute path of a path relative to the top directory.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Returns a path relative to the top directory; a path outside of it is not changed.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    /// Returns the top directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the configurations in `configs/` and `configs/crash/`, sorted by path.
    pub(crate) fn configs(&self) -> Result<Vec<PathBuf>> {
        let mut configs = Vec::new();
        for directory in [self.path("configs"), self.path("configs/crash")] {
            for entry in directory.read_dir().while_doing("list", &directory)? {
                let path = entry.while_doing("list", &directory)?.path();
                if path.extension().is_some_and(|extension| extension == "toml") {
                    configs.push(path);
                }
            }
        }
        configs.sort();
        Ok(configs)
    }

    /// Returns a command for the cargo that runs xtask, with the top directory as working directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        cargo
    }

    /// Builds vmm-cli and returns its path.
    pub(crate) fn build_cli(&self) -> Result<PathBuf> {
        self.build_program(&["build", "--package", "vmm-cli"])
    }

    /// Builds vmm-cli with the profile `dist` for a target with rustc flags, and returns its path.
    pub(crate) fn build_dist(&self, target: &str, flags: &[String]) -> Result<PathBuf> {
        // A list of strings has the same form in TOML as in Rust's Debug output.
        let flags = format!("target.{target}.rustflags = {flags:?}");
        let arguments =
            ["build", "--profile", "dist", "--package", "vmm-cli", "--target", target, "--config", &flags];
        self.build_program(&arguments)
    }

    /// Builds an example of a package in release mode and returns its path.
    pub(crate) fn build_example(&self, package: &str, name: &str) -> Result<PathBuf> {
        self.build_program(&["build", "--release", "--package", package, "--example", name])
    }

    fn build_program(&self, arguments: &[&str]) -> Result<PathBuf> {
        let messages = self.build("the program", arguments)?;
        let mut programs = messages.into_iter().filter_map(|message| message.executable);
        programs.next_back().ok_or_else(|| Failure::new("cargo built no program"))
    }

    /// Builds all tests of the workspace and returns the test programs.
    pub(crate) fn build_tests(&self) -> Result<Vec<TestProgram>> {
        let messages = self.build("the tests", &["test", "--workspace", "--no-run"])?;
        let programs = messages.into_iter().filter(|message| message.profile.test).filter_map(|message| {
            let package = message.manifest_path?.parent()?.to_owned();
            Some(TestProgram { package, target: message.target?, program: message.executable? })
        });
        Ok(programs.collect())
    }

    /// Runs a cargo build and returns its artifacts. Prints a line if anything has to be compiled.
    fn build(&self, what: &str, arguments: &[&str]) -> Result<Vec<CargoMessage>> {
        let mut cargo = self.cargo();
        cargo.args(arguments).args(["--quiet", "--message-format=json-render-diagnostics"]);
        let mut cargo = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let cargo = cargo.as_mut().map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
        let mut messages = Vec::new();
        let mut announced = false;
        for line in cargo.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
            let line =
                line.map_err(|error| Failure::new(format!("cannot read cargo's messages: {error}")))?;
            let Ok(message) = serde_json::from_str::<CargoMessage>(&line) else { continue };
            if message.reason == "compiler-artifact" {
                if !message.fresh && !announced {
                    say(format_args!("building {what}"));
                    announced = true;
                }
                messages.push(message);
            }
        }
        let status = cargo.wait().map_err(|error| Failure::new(format!("cannot wait for cargo: {error}")))?;
        if !status.success() {
            return Err(Failure::new(format!("cannot build {what}: cargo ended with {status}")));
        }
        Ok(messages)
    }
}

/// Returns the absolute path without `.` and `..` components. Symbolic links are not resolved.
pub(crate) fn plain_path(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).while_doing("find", path)?;
    let mut plain = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(component),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_has_names_and_commands() {
        let program = |name: &str, kind: &str| TestProgram {
            package: "/x/vmm-core".into(),
            target: CargoTarget { name: name.to_owned(), kind: vec![kind.to_owned()] },
            program: "/x/target/debug/deps/a-1".into(),
        };
        assert_eq!(program("on_kvm", "test").full_name("a::b"), "vmm-core/on_kvm::a::b");
        let on_kvm = "cargo test -p vmm-core --test on_kvm -- --exact a::b --include-ignored";
        assert_eq!(program("on_kvm", "test").cargo_test("a::b"), on_kvm);
        let library = "cargo test -p vmm-core --lib -- --exact a::b --include-ignored";
        assert_eq!(program("vmm_core", "lib").cargo_test("a::b"), library);
    }

    #[test]
    fn plain_paths_have_no_dots() {
        assert_eq!(plain_path(Path::new("/a/b/../c/./d")).unwrap(), Path::new("/a/c/d"));
        assert_eq!(plain_path(Path::new("/../a")).unwrap(), Path::new("/a"));
    }
}
