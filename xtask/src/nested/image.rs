//! The initramfs of the nested host.
//!
//! Each file keeps its absolute path, so that configurations find their guests, tests their data and programs their
//! libraries.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::newc::CpioArchive;
use super::packages::LDD;
use crate::failure::{Failure, FileContext, Result};
use crate::process::quote;

/// Initramfs under construction.
pub(super) struct InitramfsImage {
    archive: CpioArchive<BufWriter<File>>,
    /// Paths in the archive. An entry that is added again is ignored.
    paths: BTreeSet<PathBuf>,
}

impl InitramfsImage {
    /// Creates an empty image in an unnamed temporary file, which is freed however xtask ends.
    pub(super) fn new() -> Result<Self> {
        let file = tempfile::tempfile().while_doing("create a file in", &std::env::temp_dir())?;
        Ok(Self { archive: CpioArchive::new(BufWriter::new(file)), paths: BTreeSet::new() })
    }

    /// Adds a directory and its parents.
    pub(super) fn directory(&mut self, path: &Path) -> Result<()> {
        if path.parent().is_none() || self.paths.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.paths.insert(path.to_owned());
        self.archive.directory(&entry_name(path)?).while_doing("pack", path)
    }

    /// Adds a file that holds `bytes`.
    pub(super) fn bytes(&mut self, path: &Path, permissions: u32, bytes: &[u8]) -> Result<()> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.entry(path, |archive, name| archive.file(name, permissions, size, bytes))
    }

    /// Adds a symbolic link at `path`.
    pub(super) fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let target = target.to_string_lossy();
        self.entry(path, |archive, name| archive.link(name, &target))
    }

    /// Adds the file `source` as `path`.
    pub(super) fn file_as(&mut self, path: &Path, source: &Path) -> Result<()> {
        let file = File::open(source).while_doing("open", source)?;
        let data = file.metadata().while_doing("read", source)?;
        self.entry(path, |archive, name| archive.file(name, data.permissions().mode(), data.len(), file))
    }

    /// Adds a file, or a directory with its content, at its own path. Symbolic links are followed.
    pub(super) fn tree(&mut self, path: &Path) -> Result<()> {
        if !path.is_dir() {
            return self.file_as(path, path);
        }
        self.directory(path)?;
        let entries: io::Result<Vec<_>> = path.read_dir().while_doing("list", path)?.collect();
        for entry in entries.while_doing("list", path)? {
            self.tree(&entry.path())?;
        }
        Ok(())
    }

    /// Adds a program at its own path, and the shared libraries that it needs.
    pub(super) fn program(&mut self, path: &Path) -> Result<()> {
        self.tree(path)?;
        self.libraries(path)
    }

    /// Adds the shared libraries of a program, each at its own path.
    pub(super) fn libraries(&mut self, program: &Path) -> Result<()> {
        shared_libraries(program)?.iter().try_for_each(|library| self.tree(library))
    }

    /// Completes the archive and returns its file.
    pub(super) fn finish(self) -> Result<File> {
        let file = self.archive.finish().and_then(|buffer| buffer.into_inner().map_err(io::Error::from));
        file.map_err(|error| Failure::new(format!("cannot write the nested host's file system: {error}")))
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |parent| self.directory(parent))
    }

    fn entry(
        &mut self,
        path: &Path,
        add: impl FnOnce(&mut CpioArchive<BufWriter<File>>, &str) -> io::Result<()>,
    ) -> Result<()> {
        if !self.paths.contains(path) {
            self.parents(path)?;
            self.paths.insert(path.to_owned());
            add(&mut self.archive, &entry_name(path)?).while_doing("pack", path)?;
        }
        Ok(())
    }
}

/// Returns the name of an archive entry: the path relative to `/`.
fn entry_name(path: &Path) -> Result<String> {
    let name = path.strip_prefix("/").ok().and_then(Path::to_str);
    name.map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("cannot pack {}: no usable path", path.display())))
}

/// Returns the dynamic loader and the libraries of a program; empty for a static program, a script or data.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new(LDD.name).arg(program).env("LC_ALL", "C").output();
    let output = output.while_doing("list the libraries of", program)?;
    parse_ldd(&String::from_utf8_lossy(&output.stdout))
        .map_err(|library| Failure::new(format!("{} needs {library}, which is not here", program.display())))
}

/// Parses the output of ldd: lines of `NAME => PATH (0xADDRESS)`, or `PATH (0xADDRESS)` for the loader.
fn parse_ldd(listing: &str) -> std::result::Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in listing.lines() {
        let (name, target) = line.split_once(" => ").unwrap_or((line, line));
        if target.trim() == "not found" {
            return Err(name.trim().to_owned());
        }
        if let Some((path, _address)) = target.trim().rsplit_once(" (0x")
            && path.starts_with('/')
        {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// Returns a POSIX shell script that runs `command` in `directory`.
pub(super) fn script(directory: &Path, command: &[String]) -> String {
    let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
    format!("cd {} || exit\nexec {}\n", quote(&directory.to_string_lossy()), words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                           \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";

    #[test]
    fn libraries_from_ldd() {
        let libraries = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(LISTING).unwrap(), libraries);
        assert_eq!(parse_ldd("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        assert_eq!(parse_ldd("\tlibx.so => not found\n").unwrap_err(), "libx.so");
    }

    #[test]
    fn a_word_survives_the_shell() {
        let word = "a 'b' $c \\ \"d\"\n*";
        let text = script(Path::new("/"), &["printf".into(), "%s".into(), word.into()]);
        let output = Command::new("sh").arg("-c").arg(text).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
