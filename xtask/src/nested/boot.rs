//! One run of the nested host: starts QEMU, passes the command's output on, reads the verdict.
//!
//! QEMU emulates the CPU in software (TCG) and uses no KVM, so this works on any x86-64 machine and needs no root.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::failure::{Failure, Result, While};
use crate::interrupt;
use crate::process::wait;
use crate::progress::seconds;

/// The exit status when the time limit passed, as timeout(1) has it.
pub(super) const TIME_LIMIT: u8 = 124;
/// The exit status when the nested host itself failed.
pub(super) const NO_HOST: u8 = 125;

/// What QEMU needs to know.
pub(super) struct Boot<'a> {
    pub(super) qemu: &'a Path,
    pub(super) kernel: &'a Path,
    /// The nested host's files: a cpio archive.
    pub(super) image: File,
    /// When to give up.
    pub(super) time_limit: Duration,
    /// Print the kernel's messages, whatever happens.
    pub(super) verbose: bool,
}

impl Boot<'_> {
    /// Boots, hands the command's output to `sink` as it comes, and returns the command's exit status.
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
            (None, _) if interrupt::seen() => return Ok(interrupt::STATUS),
            (None, None) => {
                let text = format!("the nested host was stopped after {}", seconds(time_limit));
                return Err(Failure::new(text).with_status(TIME_LIMIT));
            }
            (Some(Err(reason)), _) => reason.to_owned(),
            (None, Some(ended)) => format!("QEMU ended with {ended} and no verdict"),
        };
        let tail = last_lines(&console, 40) + &last_lines(&errors, 10);
        Err(Failure::new(format!("the nested host failed: {report}\n{tail}")).with_status(NO_HOST))
    }

    fn command(&self, console: &Path) -> Command {
        let mut qemu = Command::new(self.qemu);
        qemu.args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-machine", "pc"])
            // With a thread for each CPU QEMU 7.2 hangs: KVM patches its code when a VM comes or goes, and another
            // CPU may go on with the old translation.
            .args(["-accel", "tcg,thread=single", "-cpu", "EPYC,+svm", "-smp", "2"])
            .args(["-m", &self.megabytes().to_string()])
            .args(["-chardev", "file,id=output,path=/proc/self/fd/1", "-serial", "chardev:output"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(self.kernel)
            // The image has no name but this one.
            .args(["-initrd", "/proc/self/fd/0", "-append"])
            // A panic ends QEMU at once (-no-reboot); mitigations cost time, and there is nobody to protect.
            .arg("console=ttyS1 quiet panic=-1 mitigations=off rcupdate.rcu_expedited=1");
        if let Ok(image) = self.image.try_clone() {
            qemu.stdin(image);
        }
        qemu.stdout(Stdio::piped()).stderr(Stdio::piped());
        qemu
    }
}

impl Boot<'_> {
    /// The host's memory. The image is in it twice while it is unpacked, and Linux gives half of the memory at most to the
    /// files that come out; machines need some too.
    fn megabytes(&self) -> u64 {
        let image = self.image.metadata().map_or(0, |metadata| metadata.len() >> 20);
        1024.max(512 + 3 * image)
    }
}

/// What `init.sh` wrote at its end: the command's status, or why the command could not be run.
fn verdict(console: &str) -> Option<std::result::Result<u8, &str>> {
    let verdict = console.lines().rev().find_map(|line| line.strip_prefix("nested-host: "))?;
    let status = verdict.strip_prefix("status ").and_then(|status| status.parse().ok());
    Some(status.ok_or(verdict))
}

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
