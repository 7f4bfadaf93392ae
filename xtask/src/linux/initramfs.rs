//! The guest's initramfs: busybox, the modules for a virtio disk, and `init.sh`.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use crate::failure::{FileContext, Result};
use crate::nested::{CpioArchive, NestedHost};

/// Modules of Debian's kernel for a virtio-mmio disk. Their dependencies are added.
const MODULES: [&str; 2] = ["virtio_mmio", "virtio_blk"];

/// Writes the archive to `path`.
pub(super) fn write(host: &NestedHost, path: &Path) -> Result<()> {
    let modules = host.modules(&MODULES)?;
    let busybox = fs::read(host.busybox()).while_doing("read", host.busybox())?;
    let file = File::create(path).while_doing("create", path)?;
    pack(BufWriter::new(file), &busybox, &modules).while_doing("write", path)
}

fn pack(sink: impl io::Write, busybox: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<()> {
    let mut archive = CpioArchive::new(sink);
    for directory in ["bin", "dev", "modules", "proc", "sys"] {
        archive.directory(directory)?;
    }
    let mut file = |name: &str, bytes: &[u8]| {
        archive.file(name, 0o755, u64::try_from(bytes.len()).unwrap_or(u64::MAX), bytes)
    };
    file("init", include_bytes!("init.sh"))?;
    file("bin/busybox", busybox)?;
    for (number, (name, bytes)) in modules.iter().enumerate() {
        file(&format!("modules/{number:02}-{name}.ko"), bytes)?;
    }
    archive.finish().map(drop)
}
