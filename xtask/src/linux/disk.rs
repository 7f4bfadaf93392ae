//! Disk image with one file, for the virtio block device.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, FileContext, Result};

/// Name of the file.
pub(super) const FILE: &str = "greeting";
/// Content of the file, without the line end.
pub(super) const CONTENT: &str = "this comes from a virtio disk";

/// Writes an image with an ext2 file system, which is built into Debian's kernel. `mke2fs -d` needs no root.
pub(super) fn write(image: &Path) -> Result<()> {
    let content = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    let file = content.path().join(FILE);
    fs::write(&file, format!("{CONTENT}\n")).while_doing("write", &file)?;
    // Debian installs it in a directory that is only in root's PATH.
    let candidates = ["/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs"].map(Path::new);
    let program = candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        let text = "there is no mke2fs; try: apt-get install --no-install-recommends e2fsprogs";
        Failure::new(text).with_status(106)
    })?;
    let mut command = Command::new(program);
    command.args(["-q", "-t", "ext2", "-d"]).arg(content.path()).arg(image).arg("1M");
    let output = command.output().while_doing("start", program)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("mke2fs ended with {}: {}", output.status, said.trim())));
    }
    Ok(())
}
