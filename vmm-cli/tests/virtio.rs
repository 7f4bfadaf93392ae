//! Virtio block devices with the program: invalid images, and the effect of writes on image and overlay.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const CLI: &str = env!("CARGO_BIN_EXE_vmm-cli");
const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guests/build/virtio.elf");

/// Creates a directory with a configuration that has one disk with the keys `disk`.
fn test_directory(disk: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "mode = \"long\"\nmemory.size = \"2MiB\"\nguest.elf = '{GUEST}'\nregisters.rdi = 1\n\
         limits.time = \"30s\"\n\n[devices.virtio]\ntype = \"block\"\nfile = \"disk\"\n{disk}\n"
    );
    fs::write(directory.path().join("vmm.toml"), config).unwrap();
    directory
}

/// Returns exit status, standard output and standard error.
fn run(directory: &Path, command: &str) -> (Option<i32>, String, String) {
    let output = Command::new(CLI)
        .args([command, "vmm.toml"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Writes an image of two sectors. The guest prints the first and writes the second.
fn write_image(directory: &Path) -> Vec<u8> {
    let bytes = [&b"first\n"[..], &[0; 506], &[b'-'; 512]].concat();
    fs::write(directory.join("disk"), &bytes).unwrap();
    bytes
}

fn files_exist() -> bool {
    let exist = Path::new(CLI).exists() && Path::new(GUEST).exists();
    if !exist {
        println!("skipped: the program or its guest is not on this host");
    }
    exist
}

const WRITTEN: &str = "block device of 2 sectors, named disk\nfirst\nsector 1 was written\n";

/// Returns `image` with the second sector as the guest writes it.
fn changed(image: &[u8]) -> Vec<u8> {
    image.iter().copied().take(512).chain((0..512_u32).map(|at| at.to_le_bytes()[0])).collect()
}

#[test]
fn invalid_images_are_errors_at_their_line() {
    // The guest's file must exist; its content does not matter.
    let problem = |prepare: &dyn Fn(&Path), disk: &str| {
        let directory = test_directory(disk);
        let config = fs::read_to_string(directory.path().join("vmm.toml")).unwrap();
        let config = config.replace(&format!("elf = '{GUEST}'"), "flat = \"code\"\nguest.address = 0x8000");
        fs::write(directory.path().join("vmm.toml"), config).unwrap();
        fs::write(directory.path().join("code"), [0xf4]).unwrap();
        prepare(directory.path());
        let (status, _, stderr) = run(directory.path(), "check");
        (status, stderr)
    };
    let (status, stderr) = problem(&|_| {}, "");
    assert_eq!(status, Some(105), "{stderr}");
    let expected =
        "error: cannot open the disk image disk: No such file or directory (os error 2)\n  --> vmm.toml:";
    assert!(
        stderr.starts_with(expected) && stderr.contains("| file = \"disk\"\n   |        ^^^^^^"),
        "{stderr}"
    );

    let (status, stderr) = problem(&|directory| fs::write(directory.join("disk"), [0; 513]).unwrap(), "");
    let expected = "error: the disk image disk has 513 bytes, which is not a number of 512-byte sectors\n";
    assert!(status == Some(105) && stderr.starts_with(expected), "{stderr}");
    assert!(stderr.contains("help: make it whole: `truncate --size 1024 disk`"), "{stderr}");

    let occupied = |directory: &Path| {
        write_image(directory);
        fs::write(directory.join("changes"), "").unwrap();
    };
    let (status, stderr) = problem(&occupied, "overlay = \"changes\"");
    assert!(
        status == Some(105) && stderr.starts_with("error: the overlay changes exists already\n"),
        "{stderr}"
    );
    assert!(stderr.contains("| overlay = \"changes\"\n   |           ^^^^^^^^^"), "{stderr}");

    let (status, stderr) = problem(&|directory| drop(write_image(directory)), "overlay = true");
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_read_only_disk_and_a_disk_with_an_overlay_are_unchanged() {
    if !files_exist() {
        return;
    }
    for (disk, printed) in [
        ("", "block device of 2 sectors, named disk\nfirst\nsector 1 cannot be written\n"),
        ("overlay = true", WRITTEN),
        ("overlay = \"changes\"", WRITTEN),
    ] {
        let directory = test_directory(disk);
        let before = write_image(directory.path());
        let (status, stdout, stderr) = run(directory.path(), "run");
        assert_eq!((status, stdout.as_str(), stderr.as_str()), (Some(0), printed, ""), "{disk}");
        assert_eq!(fs::read(directory.path().join("disk")).unwrap(), before);
        if disk.contains("changes") {
            assert_eq!(fs::read(directory.path().join("changes")).unwrap(), changed(&before));
            let (status, _, stderr) = run(directory.path(), "run");
            assert!(status == Some(105) && stderr.contains("exists already"), "{stderr}");
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_writable_disk_is_written() {
    if !files_exist() {
        return;
    }
    let directory = test_directory("writable = true");
    let before = write_image(directory.path());
    let (status, stdout, stderr) = run(directory.path(), "run");
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (Some(0), WRITTEN, ""));
    assert_eq!(fs::read(directory.path().join("disk")).unwrap(), changed(&before));
}
