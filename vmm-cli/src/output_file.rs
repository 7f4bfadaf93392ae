//! Files that a run writes: reports, traces. Nothing that the user had is overwritten unless the user says so.

use std::fs::{File, OpenOptions};
use std::path::Path;

use crate::diagnostic::{Diagnostic, Location};
use crate::status::Status;

/// Makes `path`, which is to hold `what`. With `force` a file that is there is overwritten; without, only what is no
/// regular file is written to, such as a pipe or `/dev/null`.
///
/// # Errors
/// It is there already, or cannot be made.
pub(crate) fn create(path: &Path, what: &str, force: bool) -> Result<File, Diagnostic> {
    let special = path.metadata().is_ok_and(|data| !data.is_file());
    let mut options = OpenOptions::new();
    options.write(true);
    if special {
    } else if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path).map_err(|error| {
        let location = Location::File(path.display().to_string());
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            let message = format!("cannot write {what}: the file exists");
            return Diagnostic::error(Status::Configuration, message)
                .at(location)
                .with_help(Some("choose another name, or overwrite it with --force"));
        }
        Diagnostic::error(Status::Host, format!("cannot write {what}: {error}")).at(location)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_is_there_survives_unless_forced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        create(&path, "the report", false).unwrap().write_all(b"first").unwrap();
        let refused = create(&path, "the report", false).unwrap_err();
        assert_eq!(refused.status, Status::Configuration);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        create(&path, "the report", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        create(Path::new("/dev/null"), "the report", false).unwrap().write_all(b"gone").unwrap();
        assert_eq!(create(directory.path(), "the report", false).unwrap_err().status, Status::Host);
    }
}
