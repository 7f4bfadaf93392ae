//! Leak checks: child processes, and files that were created, changed or removed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{WaitOptions, wait};
use walkdir::WalkDir;

/// Interval at which ended children are waited for.
const REAP_INTERVAL: Duration = Duration::from_millis(1);

/// Waits for children that end within `grace`. Returns the others, each as `PID (NAME)`.
pub(super) fn remaining_children(grace: Duration) -> io::Result<Vec<String>> {
    let start = Instant::now();
    loop {
        // An error means that there is no child.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let left = children(std::process::id())?;
        if left.is_empty() || start.elapsed() >= grace {
            return Ok(left);
        }
        thread::sleep(REAP_INTERVAL);
    }
}

/// Returns the processes whose parent is `parent`, each as `PID (NAME)`.
fn children(parent: u32) -> io::Result<Vec<String>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // The process may have exited since the directory was read.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        if let Some(child) = child_of(parent, &stat) {
            children.push(child);
        }
    }
    Ok(children)
}

/// Parses `/proc/PID/stat` (proc_pid_stat(5)): PID, name in parentheses, state, parent. A name may contain parentheses.
fn child_of(parent: u32, stat: &str) -> Option<String> {
    let (head, rest) = stat.rsplit_once(')')?;
    let found: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
    (found == parent).then(|| format!("{head})"))
}

/// Difference between two listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileChange {
    pub(super) path: PathBuf,
    pub(super) kind: ChangeKind,
}

/// Kind of a [`FileChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeKind {
    New,
    Changed,
    Missing,
}

/// Files of some directories: path, size, modification time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileListing(BTreeMap<PathBuf, (u64, Option<SystemTime>)>);

impl FileListing {
    /// Lists the content of directories recursively.
    pub(super) fn read(directories: &[&Path]) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in directories.iter().flat_map(|directory| WalkDir::new(directory).min_depth(1)) {
            let entry = entry?;
            let data = entry.metadata()?;
            files.insert(entry.into_path(), (data.len(), data.modified().ok()));
        }
        Ok(Self(files))
    }

    /// Returns the files that are new, changed or missing.
    pub(super) fn changes_since(&self, before: &Self) -> Vec<FileChange> {
        let mut changes = Vec::new();
        for (path, data) in &self.0 {
            match before.0.get(path) {
                None => changes.push(FileChange { path: path.clone(), kind: ChangeKind::New }),
                Some(old) if old != data => {
                    changes.push(FileChange { path: path.clone(), kind: ChangeKind::Changed });
                }
                Some(_) => {}
            }
        }
        let missing = before.0.keys().filter(|path| !self.0.contains_key(*path));
        changes.extend(missing.map(|path| FileChange { path: path.clone(), kind: ChangeKind::Missing }));
        changes
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ChangeKind::New => "was left",
            ChangeKind::Changed => "was changed",
            ChangeKind::Missing => "is gone",
        };
        write!(f, "{} {what}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_name_may_contain_parentheses() {
        assert_eq!(child_of(7, "42 (a) S 9 (b)) S 7 42 42 0").as_deref(), Some("42 (a) S 9 (b))"));
        assert_eq!(child_of(9, "42 (a) S 9 (b)) S 7 42 42 0"), None);
        assert_eq!(child_of(7, "42 (a"), None);
    }

    #[test]
    fn a_child_is_listed_until_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let number = child.id().to_string();
        let found = || children(std::process::id()).unwrap().iter().any(|name| name.starts_with(&number));
        assert!(found());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!found());
    }

    #[test]
    fn new_changed_and_removed_files_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let [changed, gone, new] = ["changed", "gone", "new"].map(|name| inner.join(name));
        fs::write(&changed, "1").unwrap();
        fs::write(&gone, "1").unwrap();
        let before = FileListing::read(&[directory.path()]).unwrap();
        assert!(FileListing::read(&[directory.path()]).unwrap().changes_since(&before).is_empty());
        fs::write(&changed, "22").unwrap();
        fs::remove_file(&gone).unwrap();
        fs::write(&new, "").unwrap();
        let changes = FileListing::read(&[directory.path()]).unwrap().changes_since(&before);
        let changes = changes.iter().map(|change| format!("{change}\n")).collect::<String>();
        for end in ["/new was left", "/changed was changed", "/gone is gone"] {
            assert!(changes.contains(end), "{changes}");
        }
    }
}
