//! Runs QEMU with the nested host, forwards the command's output and reads its exit status.
//!
//! QEMU emulates the CPU in software (TCG) and uses no KVM, so it works on any x86-64 machine and needs no root.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::failure::{Failure, FileContext, Result};
use crate::interrupt;
use crate::process::wait;
use crate::progress::seconds;

/// Exit status after the time limit, as in timeout(1).
pub(super) const STATUS_TIMEOUT: u8 = 124;
/// Exit status when the nested host itself failed.
pub(super) const STATUS_HOST_FAILED: u8 = 125;

/// One run of QEMU.
pub(super) struct QemuRun<'a> {
    pub(super) qemu: &'a Path,
    pub(super) kernel: &'a Path,
    /// Initramfs: a cpio archive.
    pub(super) image: File,
    /// QEMU is killed after this time.
    pub(super) time_limit: Duration,
    /// Print the kernel's messages also after success.
    pub(super) verbose: bool,
}

impl QemuRun<'_> {
    /// Boots, passes the command's output to `sink` as it arrives, and returns the command's exit status.
    pub(super) fn run(self, mut sink: impl FnMut(&[u8]) + Send) -> Result<u8> {
        let console =
            tempfile::NamedTempFile::new().while_doing("create a file in", &std::env::temp_dir())?;
        let (time_limit, verbose) = (self.time_limit, self.verbose);
        let mut qemu = self.command(console.path()).spawn();
        let qemu = qemu.as_mut().map_err(|error| Failure::new(format!("cannot start QEMU: {error}")))?;
        let (mut output, mut errors) = (qemu.stdout.take(), qemu.stderr.take());
        let (ended, errors) = thread::scope(|scope| {
            let errors = scope.spawn(move || {
                let mut text = Vec::new();
                let _ = errors.as_mut().map(|pipe| pipe.read_to_end(&mut text));
                String::from_utf8_lossy(&text).into_owned()
            });
            scope.spawn(move || {
                let mut buffer = [0; 4096];
                while let Some(result) = output.as_mut().map(|pipe| pipe.read(&mut buffer)) {
                    match result {
                        Ok(count @ 1..) => sink(buffer.get(..count).unwrap_or_default()),
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Ok(0) | Err(_) => break,
                    }
                }
            });
            (wait(qemu, time_limit), errors.join().unwrap_or_default())
        });
        let console = fs::read(console.path()).while_doing("read", console.path())?;
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        if verbose {
            eprint!("{console}");
        }
        let report = match (verdict(&console), ended.while_doing("wait for", self.qemu)?) {
            (Some(Ok(status)), _) => return Ok(status),
            (None, _) if interrupt::requested() => return Ok(interrupt::EXIT_STATUS),
            (None, None) => {
                let text = format!("the nested host was stopped after {}", seconds(time_limit));
                return Err(Failure::new(text).with_status(STATUS_TIMEOUT));
            }
            (Some(Err(reason)), _) => reason.to_owned(),
            (None, Some(ended)) => format!("QEMU ended with {ended} and no verdict"),
        };
        let tail = last_lines(&console, 40) + &last_lines(&errors, 10);
        Err(Failure::new(format!("the nested host failed: {report}\n{tail}")).with_status(STATUS_HOST_FAILED))
    }

    fn command(&self, console: &Path) -> Command {
        let mut qemu = Command::new(self.qemu);
        qemu.args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-machine", "pc"])
            // With a thread for each CPU QEMU 7.2 hangs: KVM patches its code when a VM is created or destroyed, and
            // another CPU may continue with the old translation.
            .args(["-accel", "tcg,thread=single", "-cpu", "EPYC,+svm", "-smp", "2"])
            .args(["-m", &self.megabytes().to_string()])
            .args(["-chardev", "file,id=output,path=/proc/self/fd/1", "-serial", "chardev:output"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(self.kernel)
            // The image is a file without a name.
            .args(["-initrd", "/proc/self/fd/0", "-append"])
            // A panic ends QEMU at once (-no-reboot). Mitigations only cost time here.
            .arg("console=ttyS1 quiet panic=-1 mitigations=off rcupdate.rcu_expedited=1");
        if let Ok(image) = self.image.try_clone() {
            qemu.stdin(image);
        }
        qemu.stdout(Stdio::piped()).stderr(Stdio::piped());
        qemu
    }
}

impl QemuRun<'_> {
    /// Returns the memory size in MiB.
    ///
    /// The kernel holds the image twice while it unpacks it, and limits the unpacked files to half of the memory. Guests
    /// need memory too.
    fn megabytes(&self) -> u64 {
        let image = self.image.metadata().map_or(0, |metadata| metadata.len() >> 20);
        1024.max(512 + 3 * image)
    }
}

/// Parses the last line of `init.sh`: the exit status of the command, or why the command could not be run.
fn verdict(console: &str) -> Option<std::result::Result<u8, &str>> {
    let verdict = console.lines().rev().find_map(|line| line.strip_prefix("nested-host: "))?;
    let status = verdict.strip_prefix("status ").and_then(|status| status.parse().ok());
    Some(status.ok_or(verdict))
}

/// Returns the last `count` lines without QEMU's warnings about unsupported CPU features.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> =
        text.lines().filter(|line| !line.contains("TCG doesn't support requested feature")).collect();
    lines
        .get(lines.len().saturating_sub(count)..)
        .unwrap_or_default()
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        assert_eq!(verdict("boot\n\nnested-host: status 7\n"), Some(Ok(7)));
        assert_eq!(verdict("nested-host: there is no /dev/kvm\n"), Some(Err("there is no /dev/kvm")));
        assert_eq!(verdict("nested-host: status 300\n"), Some(Err("status 300")));
        assert_eq!(verdict("Kernel panic - not syncing\n"), None);
    }

    #[test]
    fn the_last_lines_without_the_usual_warnings() {
        let text = "a\nb\nwarning: TCG doesn't support requested feature: x\nc\n";
        assert_eq!(last_lines(text, 2), "b\nc\n");
    }
}
