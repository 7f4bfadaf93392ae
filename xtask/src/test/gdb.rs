//! gdb for the nested host: the program, its data, and the Python modules that it loads.
//!
//! Debian's gdb does not start without its Python, whose library is too large to take along whole. So gdb is asked what
//! it has loaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::capture;

const PROGRAM: &str = "/usr/bin/gdb";
const LIMIT: Duration = Duration::from_secs(20);
/// Prints the file of each module. One without Python complains, which is an answer too.
const MODULES: &str = "python import sys; [print('module', m.__file__) for m in list(sys.modules.values()) if \
                       getattr(m, '__file__', None)]";

/// What the tests that drive gdb need there.
pub(super) struct Gdb {
    /// gdb.
    pub(super) program: PathBuf,
    /// Everything else but its libraries.
    pub(super) files: Vec<PathBuf>,
}

/// `None` where there is no gdb; then those tests say so and are skipped.
pub(super) fn find() -> Option<Gdb> {
    let mut command = Command::new(PROGRAM);
    command.args(["-nx", "-batch", "-ex", "show data-directory", "-ex", MODULES]);
    let answer = capture(&mut command, None, LIMIT).ok()?;
    Some(Gdb { program: PathBuf::from(PROGRAM), files: files(&answer.stdout) })
}

fn files(answer: &str) -> Vec<PathBuf> {
    let mut files = BTreeSet::new();
    for line in answer.lines() {
        if let Some(directory) = line.strip_prefix("GDB's data directory is \"") {
            files.insert(PathBuf::from(directory.trim_end_matches(['"', '.'])));
        }
        let Some(module) = line.strip_prefix("module ").map(Path::new) else { continue };
        // Which encoding it wants depends on the place where it runs.
        let of_encodings = module.parent().filter(|parent| parent.ends_with("encodings"));
        files.insert(of_encodings.unwrap_or(module).to_owned());
    }
    files.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gdb_says_becomes_a_list_of_files() {
        let answer = "GDB's data directory is \"/usr/share/gdb\".\nmodule /usr/lib/python3/os.py\n\
                      module /usr/lib/python3/encodings/utf_8.py\nmodule /usr/lib/python3/encodings/aliases.py\n";
        let expected = ["/usr/lib/python3/encodings", "/usr/lib/python3/os.py", "/usr/share/gdb"];
        assert_eq!(files(answer), expected.map(PathBuf::from));
        assert_eq!(files("Python scripting is not supported in this copy of GDB.\n"), Vec::<PathBuf>::new());
    }
}
