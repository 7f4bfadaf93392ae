//! Orders the functions of vmm-cli: those that a run executes come first, in the order of their execution.
//!
//! The kernel maps a program in pieces of 64 KiB, with a page fault for each. In the linker's default order a start touches
//! about 60 of 90 pieces, and these faults take a tenth of its time. In this order it touches about 15.
//!
//! Symbol names change with the compiler and with dependencies. Then a run is traced instruction by instruction, and the
//! program is linked again. This needs lld (part of rustc), gcc for the tracer, and KVM. Without one of them the linker's
//! default order is used.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{FileContext, Result};
use crate::process::output;
use crate::progress::say;
use crate::run::kvm_is_usable;
use crate::workspace::Workspace;

/// Symbol order file, with the directory for it, the linker map and the tracer.
pub(super) struct SymbolOrder {
    directory: PathBuf,
    /// Directory of `ld.lld`, for the option `-B` of gcc.
    linker: PathBuf,
}

/// A function of the program.
struct Function {
    address: u64,
    name: String,
}

impl SymbolOrder {
    /// Finds the linker. Returns `None` if rustc has no lld.
    pub(super) fn new(workspace: &Workspace) -> Result<Option<Self>> {
        let sysroot = Command::new("rustc").args(["--print", "sysroot"]).stdin(Stdio::null()).output();
        let Ok(sysroot) = sysroot else { return Ok(None) };
        let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim().to_owned());
        let linker = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld");
        if !linker.join("ld.lld").exists() {
            return Ok(None);
        }
        let directory = workspace.path("target/dist-order");
        fs::create_dir_all(&directory).while_doing("create", &directory)?;
        let order = Self { directory, linker };
        if !order.list().exists() {
            fs::write(order.list(), "").while_doing("write", &order.list())?;
        }
        Ok(Some(order))
    }

    /// Returns the rustc flags for linking with the order file.
    pub(super) fn flags(&self) -> Vec<String> {
        let (list, map) = (self.list(), self.map());
        [
            format!("-B{}", self.linker.display()),
            "-fuse-ld=lld".to_owned(),
            format!("-Wl,--symbol-ordering-file={}", list.display()),
            // Symbols of another build are ignored.
            "-Wl,--no-warn-symbol-ordering".to_owned(),
            format!("-Wl,-Map={}", map.display()),
        ]
        .into_iter()
        .flat_map(|argument| ["-C".to_owned(), format!("link-arg={argument}")])
        .collect()
    }

    /// Updates the order file for a program linked with these flags. Returns true if the program has to be linked again.
    pub(super) fn update(&self, workspace: &Workspace, program: &Path) -> Result<bool> {
        let map = fs::read_to_string(self.map()).while_doing("read", &self.map())?;
        let functions = functions(&map);
        let list = fs::read_to_string(self.list()).while_doing("read", &self.list())?;
        if matches_program(&list, &functions) {
            return Ok(false);
        }
        if let Err(reason) = kvm_is_usable() {
            say(format_args!("the code is not put in order, since it cannot be run here: {reason}"));
            return Ok(false);
        }
        say(format_args!("finding out what a start executes"));
        let names = self.trace(workspace, program, &functions)?;
        fs::write(self.list(), names.join("\n") + "\n").while_doing("write", &self.list())?;
        Ok(true)
    }

    /// Runs the program under the tracer and returns the functions that it executes.
    fn trace(&self, workspace: &Workspace, program: &Path, functions: &[Function]) -> Result<Vec<String>> {
        let (tracer, addresses) = (self.directory.join("touched"), self.directory.join("touched.txt"));
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&tracer);
        output(gcc.arg(workspace.path("xtask/dist/touched.c")))?;
        let mut run = Command::new(&tracer);
        run.arg(&addresses).arg(program).arg("run").arg(workspace.path("configs/bench-hello.toml"));
        output(&mut run)?;
        let touched = fs::read_to_string(&addresses).while_doing("read", &addresses)?;
        let addresses = touched.lines().filter_map(|line| u64::from_str_radix(line, 16).ok());
        Ok(by_first_use(addresses, functions))
    }

    fn list(&self) -> PathBuf {
        self.directory.join("functions.txt")
    }

    fn map(&self) -> PathBuf {
        self.directory.join("map.txt")
    }
}

/// Returns the functions in a linker map of lld, sorted by address.
///
/// Each function has its own section, with a line of address, load address, size, alignment, and `FILE:(.text.NAME)`.
fn functions(map: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = map
        .lines()
        .filter_map(|line| {
            let address = u64::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
            let name = line.split_once(":(.text.")?.1.strip_suffix(')')?;
            let name = name.strip_prefix("unlikely.").or(name.strip_prefix("hot.")).unwrap_or(name);
            Some(Function { address, name: name.to_owned() })
        })
        .collect();
    functions.sort_by_key(|function| function.address);
    functions
}

/// Returns true if at least 95 % of the names in `list` are functions of the program.
fn matches_program(list: &str, functions: &[Function]) -> bool {
    let names: HashSet<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let (all, known) = list
        .lines()
        .fold((0_usize, 0_usize), |(all, known), name| (all + 1, known + usize::from(names.contains(name))));
    all > 0 && known * 20 >= all * 19
}

/// Returns the functions that contain the addresses, each once, in the order of first use.
fn by_first_use(addresses: impl Iterator<Item = u64>, functions: &[Function]) -> Vec<String> {
    let mut names = HashSet::new();
    addresses
        .filter_map(|address| {
            let after = functions.partition_point(|function| function.address <= address);
            let name = functions.get(after.checked_sub(1)?)?.name.as_str();
            names.insert(name).then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
             VMA              LMA     Size Align Out     In      Symbol
          36bc30           36bc30   5d2795    16 .text
          36bc46           36bc46       24     1         crt1.o:(.text._start_c)
          36bc46           36bc46       24     1                 _start_c
          36c000           36c000       80    16         a.o:(.text._ZN3two17h0E)
          36bd00           36bd00       80    16         a.o:(.text.unlikely._ZN3one17h0E)
          970000           970000       80    16         a.o:(.data.three)
";

    #[test]
    fn functions_are_found_by_address_and_listed_once() {
        let functions = functions(MAP);
        let names: Vec<_> = functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["_start_c", "_ZN3one17h0E", "_ZN3two17h0E"]);
        let order = by_first_use([0x36c010, 0x10, 0x36bc50, 0x36c000].into_iter(), &functions);
        assert_eq!(order, ["_ZN3two17h0E", "_start_c"]);
    }

    #[test]
    fn a_list_of_another_build_is_detected() {
        let functions = functions(MAP);
        assert!(matches_program("_start_c\n_ZN3two17h0E\n", &functions));
        assert!(!matches_program("_start_c\n_ZN3two17h1E\n", &functions));
        assert!(!matches_program("", &functions));
    }
}
