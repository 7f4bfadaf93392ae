//! `cargo xtask dist`: vmm-cli as it is to be installed: one static file, optimized as a whole, for the shortest start.
//!
//! With musl where rustup has that target or can add it, else with glibc. glibc asks the processor for its features before `main`,
//! with instructions that are slow inside of a virtual machine; musl does not.

mod order;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Result, While};
use crate::progress::say;
use crate::workspace::Workspace;
use order::Order;

const MUSL: &str = "x86_64-unknown-linux-musl";
const GLIBC: &str = "x86_64-unknown-linux-gnu";

/// A program that was built.
pub(crate) struct Dist {
    pub(crate) program: PathBuf,
    target: &'static str,
}

/// Builds it, and says where it is.
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

/// Builds it.
pub(crate) fn build(workspace: &Workspace) -> Result<Dist> {
    let target = if has_musl() { MUSL } else { GLIBC };
    if target == GLIBC {
        say(format_args!("no target {MUSL}, and rustup cannot add it: with glibc, which starts slower"));
    }
    // A program at a fixed address has no relocations to do at its start. Only its own code and constants lie there: stack,
    // heap and guest memory are at random addresses as ever.
    let mut flags =
        ["-C", "relocation-model=static", "-C", "target-feature=+crt-static"].map(str::to_owned).to_vec();
    let order = Order::new(workspace)?;
    flags.extend(order.iter().flat_map(Order::flags));
    let mut program = workspace.build_dist(target, &flags)?;
    if let Some(order) = order
        && order.find(workspace, &program)?
    {
        unlink(&program)?;
        program = workspace.build_dist(target, &flags)?;
    }
    Ok(Dist { program, target })
}

/// Has cargo link the program once more: it does not know of the order.
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

/// Whether rustup has the target, or can add it.
fn has_musl() -> bool {
    let rustup = |arguments: &[&str]| {
        Command::new("rustup").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()
    };
    let installed = rustup(&["target", "list", "--installed"])
        .is_some_and(|output| String::from_utf8_lossy(&output.stdout).lines().any(|line| line == MUSL));
    installed || rustup(&["target", "add", MUSL]).is_some_and(|output| output.status.success())
}
