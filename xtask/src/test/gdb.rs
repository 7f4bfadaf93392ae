//! Finds gdb and its files, to be copied to the nested host.
//!
//! Debian's gdb does not start without Python, whose library is too large to copy. Therefore gdb is asked which modules it
//! has loaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::capture;

const PROGRAM: &str = "/usr/bin/gdb";
const GDB_TIMEOUT: Duration = Duration::from_secs(20);
/// gdb command that prints the file of each loaded Python module. A gdb without Python prints an error, which is ignored.
const LIST_MODULES: &str = "python import sys; [print('module', m.__file__) for m in list(sys.modules.values()) if \
                       getattr(m, '__file__', None)]";

/// Files for the tests that run gdb.
pub(super) struct GdbFiles {
    /// Path of gdb.
    pub(super) program: PathBuf,
    /// Data files and Python modules.
    pub(super) files: Vec<PathBuf>,
}

/// Finds gdb. Returns `None` without gdb; tests that need it are then skipped.
pub(super) fn find() -> Option<GdbFiles> {
    let mut command = Command::new(PROGRAM);
    command.args(["-nx", "-batch", "-ex", "show data-directory", "-ex", LIST_MODULES]);
    let answer = capture(&mut command, None, GDB_TIMEOUT).ok()?;
    Some(GdbFiles { program: PathBuf::from(PROGRAM), files: files(&answer.stdout) })
}

fn files(answer: &str) -> Vec<PathBuf> {
    let mut files = BTreeSet::new();
    for line in answer.lines() {
        if let Some(directory) = line.strip_prefix("GDB's data directory is \"") {
            files.insert(PathBuf::from(directory.trim_end_matches(['"', '.'])));
        }
        let Some(module) = line.strip_prefix("module ").map(Path::new) else { continue };
        // The required encodings depend on the locale, so all of them are copied.
        let encodings = module.parent().filter(|parent| parent.ends_with("encodings"));
        files.insert(encodings.unwrap_or(module).to_owned());
    }
    files.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_gdb_becomes_a_list_of_files() {
        let answer = "GDB's data directory is \"/usr/share/gdb\".\nmodule /usr/lib/python3/os.py\n\
                      module /usr/lib/python3/encodings/utf_8.py\nmodule /usr/lib/python3/encodings/aliases.py\n";
        let expected = ["/usr/lib/python3/encodings", "/usr/lib/python3/os.py", "/usr/share/gdb"];
        assert_eq!(files(answer), expected.map(PathBuf::from));
        assert_eq!(files("Python scripting is not supported in this copy of GDB.\n"), Vec::<PathBuf>::new());
    }
}
