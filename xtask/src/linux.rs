//! `cargo xtask test --linux`: boots Debian's stock kernel as a guest on the nested host.
//!
//! The kernel is the one that the nested host itself runs. It is booted twice: as bzImage, and by PVH as the ELF file that
//! the bzImage contains. Its initramfs is busybox. The test types at the serial console, checks for two CPUs and for a file
//! on a virtio disk, and powers the machine off.

mod bzimage;
mod console_script;
mod disk;
mod initramfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Failure, FileContext, Result};
use crate::nested::{NestedHost, NestedJob};
use crate::progress::{say, seconds};
use crate::workspace::Workspace;
pub(crate) use console_script::serve;
use console_script::{BootResult, LinuxBoot, LinuxBoots};

/// Limit for both boots. One takes less than a minute on an idle machine.
const BOOTS_TIMEOUT: Duration = Duration::from_secs(900);

/// Boots both kernels and prints a line for each. Returns the exit status.
pub(crate) fn run(workspace: &Workspace) -> Result<u8> {
    let host = NestedHost::find()?.map_err(|missing| Failure::new(missing.to_string()).with_status(106))?;
    let cli = workspace.build_cli()?;
    let directory = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    let boots = prepare(&host, directory.path())?;
    say(format_args!("booting Linux twice on the nested host"));
    let results = on_nested_host(&host, cli, directory.path(), &boots)?;
    let mut failed = false;
    for boot in &results {
        match &boot.error {
            None => println!(
                "Linux by {}: shell after {}, off by ACPI after {}",
                boot.name,
                seconds(boot.time_to_shell.unwrap_or_default()),
                seconds(boot.time_to_exit)
            ),
            Some(error) => {
                failed = true;
                println!("Linux by {}: FAILED: {error}\n{}", boot.name, boot.transcript);
            }
        }
    }
    Ok(u8::from(failed || results.len() != boots.len()))
}

/// Writes kernels, initramfs, disk and configurations to `directory`.
fn prepare(host: &NestedHost, directory: &Path) -> Result<Vec<LinuxBoot>> {
    let image = host.kernel().image();
    let copy = directory.join("bzImage");
    fs::copy(image, &copy).while_doing("copy", image)?;
    let bytes = fs::read(image).while_doing("read", image)?;
    bzimage::unpack(&bytes, &directory.join("vmlinux"))?;
    initramfs::write(host, &directory.join("initramfs.cpio"))?;
    disk::write(&directory.join("disk.img"))?;
    let kinds = [("bzImage", "linux", "bzImage"), ("vmlinux", "pvh", "vmlinux and PVH")];
    kinds.into_iter().map(|(file, protocol, name)| boot(directory, file, protocol, name)).collect()
}

/// Writes the configuration of one boot.
fn boot(directory: &Path, kernel: &str, protocol: &str, name: &str) -> Result<LinuxBoot> {
    let config = directory.join(format!("{kernel}.toml"));
    let text = format!(
        r#"boot = "{protocol}"
vcpus = 2

[memory]
size = "256MiB"

[guest]
file = "{kernel}"
initrd = "initramfs.cpio"
cmdline = "console=ttyS0 panic=-1 mitigations=off"

[[devices.virtio]]
type = "block"
file = "disk.img"
"#
    );
    fs::write(&config, text).while_doing("write", &config)?;
    Ok(LinuxBoot { name: name.to_owned(), config })
}

/// Runs all boots on the nested host, one after another.
fn on_nested_host(
    host: &NestedHost,
    cli: PathBuf,
    directory: &Path,
    boots: &[LinuxBoot],
) -> Result<Vec<BootResult>> {
    let failure =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot prepare the nested host: {error}"));
    let xtask = std::env::current_exe().map_err(|error| failure(&error))?;
    let work = LinuxBoots { cli: cli.clone(), boots: boots.to_vec() };
    let job = NestedJob {
        command: vec![xtask.to_string_lossy().into_owned(), "remote".to_owned(), "linux".to_owned()],
        directory: directory.to_owned(),
        programs: vec![xtask, cli],
        files: vec![directory.to_owned()],
        input: serde_json::to_vec(&work).map_err(|error| failure(&error))?,
        time_limit: BOOTS_TIMEOUT,
        verbose: false,
    };
    let mut output = Vec::new();
    let status = host.run(&job, |bytes| output.extend_from_slice(bytes))?;
    let output = String::from_utf8_lossy(&output);
    if status != 0 {
        return Err(Failure::new(format!("xtask there ended with status {status}\n{output}")));
    }
    Ok(output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
