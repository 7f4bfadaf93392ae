//! `cargo xtask dist`: builds vmm-cli for installation, as one static file with link-time optimization.
//!
//! The target is musl if rustup has it or can add it, else glibc. glibc executes CPUID before `main`, which traps inside a
//! virtual machine and makes each start slower. musl does not.

mod order;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{FileContext, Result};
use crate::progress::say;
use crate::workspace::Workspace;
use order::SymbolOrder;

const MUSL: &str = "x86_64-unknown-linux-musl";
const GLIBC: &str = "x86_64-unknown-linux-gnu";

/// The built program.
pub(crate) struct Dist {
    pub(crate) program: PathBuf,
    target: &'static str,
}

/// Builds the program and prints its path. Returns the exit status.
pub(crate) fn run(workspace: &Workspace) -> Result<u8> {
    let Dist { program, target } = build(workspace)?;
    let size = fs::metadata(&program).while_doing("look at", &program)?.len();
    println!("{}", program.display());
    let (mib, rest) = (size >> 20, ((size & 0xf_ffff) * 10) >> 20);
    say(format_args!(
        "{mib}.{rest} MiB, static, for {target}; install it: cp {} ~/.local/bin/",
        program.display()
    ));
    Ok(0)
}

/// Builds the program.
pub(crate) fn build(workspace: &Workspace) -> Result<Dist> {
    let target = if has_musl() { MUSL } else { GLIBC };
    if target == GLIBC {
        say(format_args!("no target {MUSL}, and rustup cannot add it: using glibc, which starts slower"));
    }
    // A program at a fixed address needs no relocations at its start. Only its code and constants are there. Stack, heap and
    // guest memory still have random addresses.
    let mut flags =
        ["-C", "relocation-model=static", "-C", "target-feature=+crt-static"].map(str::to_owned).to_vec();
    let order = SymbolOrder::new(workspace)?;
    flags.extend(order.iter().flat_map(SymbolOrder::flags));
    let mut program = workspace.build_dist(target, &flags)?;
    if let Some(order) = order
        && order.update(workspace, &program)?
    {
        unlink(&program)?;
        program = workspace.build_dist(target, &flags)?;
    }
    Ok(Dist { program, target })
}

/// Removes the linked program, so that cargo links it again: cargo does not track the symbol order file.
fn unlink(program: &Path) -> Result<()> {
    let directory = program.with_file_name("deps");
    for entry in fs::read_dir(&directory).while_doing("list", &directory)? {
        let path = entry.while_doing("list", &directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("vmm_cli-") && path.extension().is_none() {
            fs::remove_file(&path).while_doing("remove", &path)?;
        }
    }
    Ok(())
}

/// Returns true if rustup has the musl target or can add it.
fn has_musl() -> bool {
    let rustup = |arguments: &[&str]| {
        Command::new("rustup").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()
    };
    let installed = rustup(&["target", "list", "--installed"])
        .is_some_and(|output| String::from_utf8_lossy(&output.stdout).lines().any(|line| line == MUSL));
    installed || rustup(&["target", "add", MUSL]).is_some_and(|output| output.status.success())
}
