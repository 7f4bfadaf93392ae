//! Programs that the nested host needs, and their Debian packages.
//!
//! Missing programs are collected and reported in one message.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A program and its Debian package.
pub(super) struct PackagedProgram {
    /// Name in `PATH`.
    pub(super) name: &'static str,
    package: &'static str,
}

/// The emulator that runs the nested host.
pub(super) const QEMU: PackagedProgram =
    PackagedProgram { name: "qemu-system-x86_64", package: "qemu-system-x86" };
/// User space of the nested host. The package `busybox` works too.
pub(super) const BUSYBOX: PackagedProgram = PackagedProgram { name: "busybox", package: "busybox-static" };
/// Program that lists the shared libraries of another.
pub(super) const LDD: PackagedProgram = PackagedProgram { name: "ldd", package: "libc-bin" };
/// Decompressor for kernel modules in xz format.
pub(super) const XZ: PackagedProgram = PackagedProgram { name: "xz", package: "xz-utils" };
/// Decompressor for kernel modules in zstd format.
pub(super) const ZSTD: PackagedProgram = PackagedProgram { name: "zstd", package: "zstd" };
/// Decompressor for kernel modules in gzip format.
pub(super) const GZIP: PackagedProgram = PackagedProgram { name: "gzip", package: "gzip" };

/// Missing packages and kernel.
#[derive(Debug, Default)]
pub(crate) struct MissingParts {
    packages: Vec<&'static str>,
    kernel: bool,
}

impl MissingParts {
    /// Returns the path of a program. If it is not found, its package is recorded as missing.
    pub(super) fn look_for(&mut self, program: &PackagedProgram) -> Option<PathBuf> {
        let found = find_program(program.name.as_ref());
        if found.is_none() && !self.packages.contains(&program.package) {
            self.packages.push(program.package);
        }
        found
    }

    /// Records that no usable kernel was found.
    pub(super) fn no_kernel(&mut self) {
        self.kernel = true;
    }

    /// Returns true if nothing is missing.
    pub(super) fn is_empty(&self) -> bool {
        self.packages.is_empty() && !self.kernel
    }
}

impl fmt::Display for MissingParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the nested host lacks ")?;
        if !self.packages.is_empty() {
            let packages = self.packages.join(" ");
            write!(f, "packages; try: apt-get install --no-install-recommends {packages}")?;
        }
        if self.kernel {
            let and = if self.packages.is_empty() { "" } else { "; and it lacks " };
            write!(f, "{and}a kernel with kvm-amd; try: cargo xtask nested --fetch-kernel")?;
        }
        Ok(())
    }
}

/// Looks a name up in `PATH`. A name with a slash is returned as it is if it is a program.
pub(super) fn find_program(name: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|path| is_program(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| is_program(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_names_everything_missing() {
        let mut missing = MissingParts::default();
        assert!(missing.is_empty());
        assert!(missing.look_for(&PackagedProgram { name: "no-such-program-1", package: "one" }).is_none());
        assert!(missing.look_for(&PackagedProgram { name: "no-such-program-2", package: "two" }).is_none());
        assert!(missing.look_for(&PackagedProgram { name: "sh", package: "dash" }).is_some());
        missing.no_kernel();
        assert_eq!(
            missing.to_string(),
            "the nested host lacks packages; try: apt-get install --no-install-recommends one two; \
             and it lacks a kernel with kvm-amd; try: cargo xtask nested --fetch-kernel"
        );
    }
}
