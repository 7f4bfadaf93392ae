//! Boots Linux under vmm-cli on the nested host and types commands at its serial console.
//!
//! Each line is sent after the answer to the previous one, because a kernel without a console loses its input. Expected
//! answers never occur in the typed line, because the terminal echoes it.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::disk;
use crate::failure::{Failure, FileContext, Result};
use crate::process::wait;

/// Limit for reaching the shell prompt, and for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(240);
/// Busybox prompt for root in `/`.
const PROMPT: &str = "/ # ";

/// Input of `xtask remote linux`.
#[derive(Serialize, Deserialize)]
pub(super) struct LinuxBoots {
    pub(super) cli: PathBuf,
    pub(super) boots: Vec<LinuxBoot>,
}

/// A kernel to boot and its configuration.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct LinuxBoot {
    pub(super) name: String,
    pub(super) config: PathBuf,
}

/// Result of a boot.
#[derive(Serialize, Deserialize)]
pub(super) struct BootResult {
    pub(super) name: String,
    /// Time from the start of vmm-cli to the shell prompt.
    pub(super) time_to_shell: Option<Duration>,
    /// Time from the start of vmm-cli to its exit.
    pub(super) time_to_exit: Duration,
    /// Reason of a failure.
    pub(super) error: Option<String>,
    /// Console output, followed by the standard error of vmm-cli.
    pub(super) transcript: String,
}

/// Runs `xtask remote linux`: reads [`LinuxBoots`] as JSON and prints a [`BootResult`] as JSON line for each boot.
pub(crate) fn serve() -> Result<()> {
    let input = Path::new("standard input");
    let work: LinuxBoots = serde_json::from_reader(std::io::stdin()).while_doing("understand", input)?;
    for boot in &work.boots {
        let line = serde_json::to_string(&boot.run(&work.cli)?).while_doing("write", input)?;
        println!("{line}");
    }
    Ok(())
}

impl LinuxBoot {
    fn run(&self, cli: &Path) -> Result<BootResult> {
        let start = Instant::now();
        let errors = tempfile::NamedTempFile::new().while_doing("create a file in", &std::env::temp_dir())?;
        let stderr = errors.reopen().while_doing("open", errors.path())?;
        let mut command = Command::new(cli);
        command.arg("run").arg(&self.config).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().while_doing("start", cli)?;
        let mut time_to_shell = None;
        let mut console = Console::new(&mut child)?;
        let result = console.run_script(|| time_to_shell = Some(start.elapsed()));
        let result = result.and_then(|()| wait_for_exit(&mut child));
        // Does nothing if vmm-cli has exited.
        let _ = child.kill().and_then(|()| child.wait());
        let said = std::fs::read(errors.path()).while_doing("read", errors.path())?;
        let transcript = console.output + &String::from_utf8_lossy(&said);
        Ok(BootResult {
            name: self.name.clone(),
            time_to_shell,
            time_to_exit: start.elapsed(),
            error: result.err(),
            transcript,
        })
    }
}

/// Waits for vmm-cli, which has to exit with status 0 after the guest has powered off.
fn wait_for_exit(child: &mut Child) -> std::result::Result<(), String> {
    match wait(child, ANSWER_TIMEOUT) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("vmm-cli ended with {status} after the power was off")),
        Ok(None) => Err("vmm-cli did not end after the power was off".to_owned()),
        Err(error) => Err(format!("cannot wait for vmm-cli: {error}")),
    }
}

/// The guest's serial console.
struct Console {
    input: std::process::ChildStdin,
    chunks: Receiver<Vec<u8>>,
    /// All output so far.
    output: String,
    /// Offset in `output` up to which [`Console::expect`] has matched.
    matched: usize,
}

impl Console {
    /// Takes the pipes of a child process and starts a thread that reads its output.
    fn new(child: &mut Child) -> Result<Self> {
        let (Some(input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("vmm-cli has no pipes"));
        };
        let (sender, chunks) = mpsc::channel();
        // The thread ends when vmm-cli exits, which closes the pipe.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match output.read(&mut buffer) {
                    Ok(count @ 1..) => {
                        let bytes = buffer.get(..count).unwrap_or_default();
                        if sender.send(bytes.to_vec()).is_err() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => break,
                }
            }
        });
        Ok(Self { input, chunks, output: String::new(), matched: 0 })
    }

    /// Waits for the shell, checks CPUs and disk, and powers the machine off.
    fn run_script(&mut self, shell_reached: impl FnOnce()) -> std::result::Result<(), String> {
        self.expect(PROMPT)?;
        shell_reached();
        self.ask("echo $((6 * 7)) is what was typed", "42 is what was typed")?;
        self.ask("echo there are $(nproc) CPUs", "there are 2 CPUs")?;
        self.ask(
            &format!("mkdir /mnt && mount -t ext2 -o ro /dev/vda /mnt && cat /mnt/{}", disk::FILE),
            disk::CONTENT,
        )?;
        self.type_line("poweroff -f")
    }

    /// Types a line and waits for its answer and the next prompt.
    fn ask(&mut self, line: &str, answer: &str) -> std::result::Result<(), String> {
        self.type_line(line)?;
        self.expect(answer)?;
        self.expect(PROMPT)
    }

    fn type_line(&mut self, line: &str) -> std::result::Result<(), String> {
        let typed = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        typed.map_err(|error| format!("cannot type `{line}`: {error}"))
    }

    /// Waits until `text` appears after the previous match.
    fn expect(&mut self, text: &str) -> std::result::Result<(), String> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let new = self.output.get(self.matched..).unwrap_or_default();
            if let Some(offset) = new.find(text) {
                self.matched += offset + text.len();
                return Ok(());
            }
            match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.output.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => return Err(format!("timeout while waiting for `{text}`")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("vmm-cli ended while `{text}` was waited for"));
                }
            }
        }
    }
}
