//! Reads the TOML file from disk.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

/// No configuration is larger. The limit keeps `/dev/zero`, or a guest given by mistake, from filling memory.
const LARGEST: u64 = 1 << 20;

/// The text of the file at `path`.
pub(super) fn text(path: &Path) -> Result<String, Diagnostics> {
    let name = path.display().to_string();
    let refuse = |status, message: String, help: Option<&str>| {
        Diagnostics::from(Diagnostic::error(status, message).at(Location::File(name.clone())).with_help(help))
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST.saturating_add(1)).read_to_end(&mut bytes));
    if let Err(error) = read {
        let kind = error.kind();
        let (status, help) = if kind == ErrorKind::NotFound {
            (Status::Configuration, Some("`vmm-cli init` writes one to start from"))
        } else if kind == ErrorKind::IsADirectory {
            (Status::Configuration, Some("name a TOML file in it"))
        } else {
            (Status::Host, None)
        };
        return Err(refuse(status, format!("cannot read the configuration: {error}"), help));
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST) {
        return Err(refuse(
            Status::Configuration,
            "this is no configuration: it is larger than 1 MiB".to_owned(),
            Some("guest files are named in a configuration, not given in its place"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        refuse(
            Status::Configuration,
            format!("this is no TOML file: byte {offset} is not UTF-8"),
            Some("guest files are named in a configuration, not given in its place"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let missing = text(&directory.path().join("none.toml")).unwrap_err();
        assert_eq!(missing.status(), Status::Configuration);
        assert_eq!(text(directory.path()).unwrap_err().status(), Status::Configuration);

        let binary = directory.path().join("guest.elf");
        std::fs::write(&binary, b"ab\xff").unwrap();
        assert_eq!(text(&binary).unwrap_err().0[0].message, "this is no TOML file: byte 2 is not UTF-8");

        let endless = text(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(endless.0[0].message, "this is no configuration: it is larger than 1 MiB");
    }

    #[test]
    fn a_file_is_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "mode = \"long\"\n").unwrap();
        assert_eq!(text(file.path()).unwrap(), "mode = \"long\"\n");
    }
}
