//! Names of files that lead out of a directory, and files that are not regular.

use std::io::Read;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, mkfifoat};
use tempfile::TempDir;

use super::*;

/// Directory `top/own` with files, links and special files, beside a file that is not to be read.
fn directory() -> (TempDir, PathBuf) {
    let top = tempfile::tempdir().unwrap();
    let root = top.path().canonicalize().unwrap();
    let own = root.join("own");
    fs::create_dir_all(own.join("sub")).unwrap();
    fs::create_dir_all(root.join("own-too")).unwrap();
    for (file, text) in
        [("secret", "no"), ("own-too/file", "no"), ("own/file", "yes"), ("own/sub/file", "yes")]
    {
        fs::write(root.join(file), text).unwrap();
    }
    for (target, link) in [
        ("file", "to-file"),
        ("sub", "to-sub"),
        ("../secret", "to-secret"),
        ("to-secret", "to-link"),
        ("..", "to-top"),
        ("itself", "itself"),
        ("nothing", "dangling"),
        ("../nothing", "dangling-out"),
        ("/proc/self/root", "to-root"),
    ] {
        symlink(target, own.join(link)).unwrap();
    }
    symlink(own.join("file"), own.join("absolute")).unwrap();
    symlink(root.join("secret"), own.join("absolute-out")).unwrap();
    mkfifoat(CWD, own.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    drop(UnixListener::bind(own.join("socket")).unwrap());
    symlink("/dev/zero", own.join("device")).unwrap();
    (top, own)
}

fn read(file: &HostFile) -> Result<String, HostFileError> {
    let mut text = String::new();
    file.open(false)?.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn files_inside_are_opened_by_every_name() {
    let (_top, own) = directory();
    let absolute = own.join("file");
    let names =
        ["file", "./file", "sub/../file", "to-file", "to-sub/file", "absolute", "../own/file", "sub/file"];
    for name in names.into_iter().map(Path::new).chain([&*absolute]) {
        let text = read(&HostFile::inside(own.join(name), &own));
        assert!(matches!(&text, Ok(text) if text == "yes"), "{name:?}: {text:?}");
    }
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let (_top, own) = directory();
    for name in [
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "/nothing/there",
        "../nothing",
        "to-secret",
        "to-link",
        "absolute-out",
        "to-top/secret",
        "to-top/own-too/file",
        "../own-too/file",
        "to-root/etc/passwd",
        "device",
        "/proc/self/exe",
        "/proc/self/fd/0",
    ] {
        let file = HostFile::inside(own.join(name), &own);
        for writes in [false, true] {
            let error = file.open(writes).unwrap_err();
            assert!(matches!(error, HostFileError::Outside { .. }), "{name}: {error:?}");
            assert!(error.is_configuration());
        }
    }
}

#[test]
fn only_regular_files_are_opened() {
    let (_top, own) = directory();
    for name in ["fifo", "socket", "sub", ".", "to-sub"] {
        for file in [HostFile::inside(own.join(name), &own), HostFile::new(own.join(name))] {
            let error = file.open(false).unwrap_err();
            assert!(matches!(error, HostFileError::NotRegular), "{name}: {error:?}");
        }
    }
    let device = HostFile::new("/dev/zero").open(false).unwrap_err();
    assert!(matches!(device, HostFileError::NotRegular));
}

#[test]
fn names_that_lead_nowhere_are_mistakes_of_the_configuration() {
    let (_top, own) = directory();
    for name in ["nothing", "itself", "dangling", "dangling-out", "file/below", "nothing/below"] {
        let error = HostFile::inside(own.join(name), &own).open(false).unwrap_err();
        assert!(matches!(error, HostFileError::Io(_)) && error.is_configuration(), "{name}: {error:?}");
    }
}

/// A link that takes the place of a file after the name was resolved is not followed, with openat2 and without.
#[test]
fn a_link_that_was_put_there_meanwhile_is_not_followed() {
    let (_top, own) = directory();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = || open(&own, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for open in [open_beneath, open_by_components] {
        for name in ["to-file", "to-secret", "to-sub/file", "to-top/secret", "absolute", "../secret"] {
            assert!(open(directory(), Path::new(name), flags).is_err(), "{name}");
        }
        assert!(open(directory(), Path::new("sub/file"), flags).is_ok());
    }
}
