//! The repository's files, and cargo's builds in it.

use std::io::{BufRead, BufReader};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result, While};
use crate::progress::say;

/// The repository's top directory.
pub(crate) struct Workspace {
    root: PathBuf,
}

/// One test program that cargo built.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TestProgram {
    /// The package's directory, in which cargo runs its tests.
    pub(crate) package: PathBuf,
    /// What it was built from: a library, a program or a file under `tests/`.
    target: String,
    /// Where the executable is.
    pub(crate) program: PathBuf,
}

impl TestProgram {
    /// The name of one of its tests, told apart from those of other programs.
    pub(crate) fn full_name(&self, test: &str) -> String {
        let package = self.package.file_name().unwrap_or_default().to_string_lossy();
        format!("{package}/{}::{test}", self.target)
    }
}

/// What we read of the lines of `cargo build --message-format=json` (cargo's reference, "External tools").
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

#[derive(Deserialize)]
struct CargoTarget {
    name: String,
}

impl Workspace {
    /// The repository that this xtask was built in. Cargo builds it anew when that moves.
    pub(crate) fn here() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: package.parent().unwrap_or(package).to_owned() }
    }

    /// A path below the top directory.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The top directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// All configurations, sorted by path: those in `configs/` and those of the crashing guests.
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

    /// The cargo that runs us, in the top directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        cargo
    }

    /// Builds vmm-cli and returns its path.
    pub(crate) fn build_cli(&self) -> Result<PathBuf> {
        self.build_program(&["build", "--package", "vmm-cli"])
    }

    /// The same as it is installed, for a target and with the compiler's flags for it.
    pub(crate) fn build_dist(&self, target: &str, flags: &[String]) -> Result<PathBuf> {
        // A list of strings is written in TOML as it is in Rust.
        let flags = format!("target.{target}.rustflags = {flags:?}");
        let arguments =
            ["build", "--profile", "dist", "--package", "vmm-cli", "--target", target, "--config", &flags];
        self.build_program(&arguments)
    }

    /// An optimized example of a package.
    pub(crate) fn build_example(&self, package: &str, name: &str) -> Result<PathBuf> {
        self.build_program(&["build", "--release", "--package", package, "--example", name])
    }

    fn build_program(&self, arguments: &[&str]) -> Result<PathBuf> {
        let messages = self.build("the program", arguments)?;
        let mut programs = messages.into_iter().filter_map(|message| message.executable);
        programs.next_back().ok_or_else(|| Failure::new("cargo built no program"))
    }

    /// Builds all tests of the workspace and returns their programs.
    pub(crate) fn build_tests(&self) -> Result<Vec<TestProgram>> {
        let messages = self.build("the tests", &["test", "--workspace", "--no-run"])?;
        let programs = messages.into_iter().filter(|message| message.profile.test).filter_map(|message| {
            let package = message.manifest_path?.parent()?.to_owned();
            Some(TestProgram { package, target: message.target?.name, program: message.executable? })
        });
        Ok(programs.collect())
    }

    /// Runs a cargo build that stays silent when there is nothing to do.
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

/// The absolute path without `.` and `..`, taken literally: links are not followed.
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
    fn plain_paths_have_no_dots() {
        assert_eq!(plain_path(Path::new("/a/b/../c/./d")).unwrap(), Path::new("/a/c/d"));
        assert_eq!(plain_path(Path::new("/../a")).unwrap(), Path::new("/a"));
    }
}
