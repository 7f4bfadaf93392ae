//! The programs that the nested host is made of, and the Debian packages that hold them.
//!
//! Whatever is missing is collected and reported in one message.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A program and the Debian package that has it.
pub(super) struct Program {
    /// Its name in `PATH`.
    pub(super) name: &'static str,
    package: &'static str,
}

/// The emulator.
pub(super) const QEMU: Program = Program { name: "qemu-system-x86_64", package: "qemu-system-x86" };
/// The nested host's user land. The package `busybox` would do as well.
pub(super) const BUSYBOX: Program = Program { name: "busybox", package: "busybox-static" };
/// Lists a program's shared libraries.
pub(super) const LDD: Program = Program { name: "ldd", package: "libc-bin" };
/// Unpack kernel modules, for kernels that pack them.
pub(super) const XZ: Program = Program { name: "xz", package: "xz-utils" };
pub(super) const ZSTD: Program = Program { name: "zstd", package: "zstd" };
pub(super) const GZIP: Program = Program { name: "gzip", package: "gzip" };

/// What is not here.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    packages: Vec<&'static str>,
    kernel: bool,
}

impl Missing {
    /// The path of a program; if there is none its package goes onto the list.
    pub(super) fn look_for(&mut self, program: &Program) -> Option<PathBuf> {
        let found = find_program(program.name.as_ref());
        if found.is_none() && !self.packages.contains(&program.package) {
            self.packages.push(program.package);
        }
        found
    }

    /// There is no kernel that could run the nested host.
    pub(super) fn no_kernel(&mut self) {
        self.kernel = true;
    }

    /// Whether all is here.
    pub(super) fn is_empty(&self) -> bool {
        self.packages.is_empty() && !self.kernel
    }
}

impl fmt::Display for Missing {
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

/// Looks a name up in `PATH`; one with a slash stands for itself.
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
    fn one_message_names_all_that_is_missing() {
        let mut missing = Missing::default();
        assert!(missing.is_empty());
        assert!(missing.look_for(&Program { name: "no-such-program-1", package: "one" }).is_none());
        assert!(missing.look_for(&Program { name: "no-such-program-2", package: "two" }).is_none());
        assert!(missing.look_for(&Program { name: "sh", package: "dash" }).is_some());
        missing.no_kernel();
        assert_eq!(
            missing.to_string(),
            "the nested host lacks packages; try: apt-get install --no-install-recommends one two; \
             and it lacks a kernel with kvm-amd; try: cargo xtask nested --fetch-kernel"
        );
    }
}
