//! A disk image with one file on it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Result, While};

/// The file's name.
pub(super) const FILE: &str = "greeting";
/// What is in it.
pub(super) const CONTENT: &str = "this comes from a virtio disk";

/// Writes an image with an ext2 file system, which Debian's kernel has built in. No root is needed for that.
pub(super) fn write(image: &Path) -> Result<()> {
    let content = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    let file = content.path().join(FILE);
    fs::write(&file, format!("{CONTENT}\n")).while_doing("write", &file)?;
    // Debian keeps it where only root's PATH looks.
    let places = ["/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs"].map(Path::new);
    let program = places.into_iter().find(|place| place.exists()).ok_or_else(|| {
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
