//! SIGBUS in a process with mapped files: guarded mappings get pages of zeros, other accesses have the default action.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;

use kvm_sys_wrap::MappedFile;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

const SIGBUS: i32 = 7;

fn file(name: &str) -> (File, std::path::PathBuf) {
    let path = std::env::temp_dir().join(format!("vmm-bus-error-{name}-{}", std::process::id()));
    fs::write(&path, [1; 0x2000]).unwrap();
    (File::options().read(true).write(true).open(&path).unwrap(), path)
}

/// Runs one of the tests below in a separate process, which the signal may end.
fn run_alone(test: &str) -> std::process::ExitStatus {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args(["--exact", test]).env("VMM_ALONE", test).output().unwrap();
    output.status
}

fn is_alone(test: &str) -> bool {
    std::env::var("VMM_ALONE").is_ok_and(|wanted| wanted == test)
}

#[test]
fn a_sent_signal_still_ends_the_process() {
    let name = "a_sent_signal_still_ends_the_process";
    if !is_alone(name) {
        assert_eq!(run_alone(name).signal(), Some(SIGBUS));
        return;
    }
    let (file, path) = file("sent");
    let _mapped = MappedFile::new(file, &path).unwrap().unwrap();
    fs::remove_file(path).unwrap();
    // The first signal runs the handler of Rust's runtime, which checks for a stack overflow and then restores the default action.
    for _ in 0..3 {
        Command::new("kill").args(["-BUS", &std::process::id().to_string()]).status().unwrap();
    }
    // The signal ends the process. Without it the test fails after this time.
    thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn an_access_to_an_unguarded_mapping_still_ends_the_process() {
    let name = "an_access_to_an_unguarded_mapping_still_ends_the_process";
    if !is_alone(name) {
        assert_eq!(run_alone(name).signal(), Some(SIGBUS));
        return;
    }
    let (file, path) = file("other");
    let _mapped = MappedFile::new(file.try_clone().unwrap(), &path).unwrap().unwrap();
    fs::remove_file(path).unwrap();
    let range = (GuestAddress(0), 0x2000, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    file.set_len(0x1000).unwrap();
    let _ = memory.read_obj::<u8>(GuestAddress(0x1000));
    unreachable!("the access above ends the process");
}

/// Each of many threads has its own file, which loses its pages or not. Each mapping reports only its own file.
#[test]
fn each_mapping_reports_only_its_own_file() {
    let work = |number: usize| {
        let (file, path) = file(&number.to_string());
        let mapped = MappedFile::new(File::open(&path).unwrap(), &path).unwrap().unwrap();
        fs::remove_file(path).unwrap();
        let shrinks = number.is_multiple_of(2);
        if shrinks {
            file.set_len(0).unwrap();
        }
        assert_eq!(mapped.bytes().contains(&0), shrinks);
        assert_eq!(mapped.check().is_err(), shrinks);
    };
    thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || (0..50).for_each(|_| work(number)));
        }
    });
}
