//! The order of the program's code: what a run executes comes first, in the order in which it does.
//!
//! The kernel maps a program 64 KiB at a time, with a page fault for each. In the linker's own order the code of a start lies in
//! some sixty such pieces of ninety, and these faults are a tenth of a start; in this order it lies in some fifteen.
//!
//! The names of functions change with the compiler and with every dependency, so the order is found anew where they did: a run is
//! traced instruction by instruction, and the program is linked once more. That wants a linker that can do it (rustc brings
//! lld along), gcc for the tracer, and a KVM to run on. Without one of them the order is the linker's.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Result, While};
use crate::process::output;
use crate::progress::say;
use crate::run::kvm_is_usable;
use crate::workspace::Workspace;

/// Where the order, the linker's map and the tracer are.
pub(super) struct Order {
    directory: PathBuf,
    /// The directory of `ld.lld`, as gcc looks for it.
    linker: PathBuf,
}

/// A function in the program.
struct Function {
    address: u64,
    name: String,
}

impl Order {
    /// `None` where there is no linker for it.
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

    /// What the compiler is to pass on to the linker.
    pub(super) fn flags(&self) -> Vec<String> {
        let (list, map) = (self.list(), self.map());
        [
            format!("-B{}", self.linker.display()),
            "-fuse-ld=lld".to_owned(),
            format!("-Wl,--symbol-ordering-file={}", list.display()),
            // Names of another build do no harm.
            "-Wl,--no-warn-symbol-ordering".to_owned(),
            format!("-Wl,-Map={}", map.display()),
        ]
        .into_iter()
        .flat_map(|argument| ["-C".to_owned(), format!("link-arg={argument}")])
        .collect()
    }

    /// Finds the order for a program that was just linked with these flags. Whether it has to be linked again.
    pub(super) fn find(&self, workspace: &Workspace, program: &Path) -> Result<bool> {
        let map = fs::read_to_string(self.map()).while_doing("read", &self.map())?;
        let functions = functions(&map);
        let list = fs::read_to_string(self.list()).while_doing("read", &self.list())?;
        if is_of(&list, &functions) {
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

    /// The functions that a run executes.
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
        Ok(in_order(addresses, functions))
    }

    fn list(&self) -> PathBuf {
        self.directory.join("functions.txt")
    }

    fn map(&self) -> PathBuf {
        self.directory.join("map.txt")
    }
}

/// The functions in a map of lld's, by address. Each has a section of its own: its line has address, load address, size,
/// alignment, and `FILE:(.text.NAME)`.
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

/// Whether nearly all names of the list are those of functions there.
fn is_of(list: &str, functions: &[Function]) -> bool {
    let names: HashSet<&str> = functions.iter().map(|function| function.name.as_str()).collect();
    let (all, known) = list
        .lines()
        .fold((0_usize, 0_usize), |(all, known), name| (all + 1, known + usize::from(names.contains(name))));
    all > 0 && known * 20 >= all * 19
}

/// The functions that these addresses are in, each once, in the order of the addresses.
fn in_order(addresses: impl Iterator<Item = u64>, functions: &[Function]) -> Vec<String> {
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
        let order = in_order([0x36c010, 0x10, 0x36bc50, 0x36c000].into_iter(), &functions);
        assert_eq!(order, ["_ZN3two17h0E", "_start_c"]);
    }

    #[test]
    fn a_list_of_another_build_is_found_out() {
        let functions = functions(MAP);
        assert!(is_of("_start_c\n_ZN3two17h0E\n", &functions));
        assert!(!is_of("_start_c\n_ZN3two17h1E\n", &functions));
        assert!(!is_of("", &functions));
    }
}
