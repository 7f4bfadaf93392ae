//! What happens on the nested host: vmm-cli boots Linux, and we type at its serial console.
//!
//! Each line is typed when the answer to the last one is there, as a user would do: what is typed at a kernel that has
//! no console yet is lost. An answer never occurs in what was typed, since the terminal echoes that.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::disk;
use crate::failure::{Failure, Result, While};
use crate::process::wait;

/// For the way to the shell, and for each answer.
const PATIENCE: Duration = Duration::from_secs(240);
/// Busybox' prompt for root, in the top directory.
const PROMPT: &str = "/ # ";

/// All that is to be done.
#[derive(Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) cli: PathBuf,
    pub(super) boots: Vec<Boot>,
}

/// A kernel to boot.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Boot {
    pub(super) name: String,
    pub(super) config: PathBuf,
}

/// How a boot went.
#[derive(Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) name: String,
    /// From the start of vmm-cli to the prompt.
    pub(super) shell: Option<Duration>,
    /// From the start of vmm-cli to its end.
    pub(super) end: Duration,
    /// What went wrong, if anything did.
    pub(super) trouble: Option<String>,
    /// All that the console showed, then what vmm-cli said.
    pub(super) transcript: String,
}

/// The hidden task: reads [`Work`] as JSON and prints an [`Outcome`] for each boot as a line of JSON.
pub(crate) fn serve() -> Result<()> {
    let input = Path::new("standard input");
    let work: Work = serde_json::from_reader(std::io::stdin()).while_doing("understand", input)?;
    for boot in &work.boots {
        let line = serde_json::to_string(&boot.talk(&work.cli)?).while_doing("write", input)?;
        println!("{line}");
    }
    Ok(())
}

impl Boot {
    fn talk(&self, cli: &Path) -> Result<Outcome> {
        let start = Instant::now();
        let errors = tempfile::NamedTempFile::new().while_doing("create a file in", &std::env::temp_dir())?;
        let stderr = errors.reopen().while_doing("open", errors.path())?;
        let mut command = Command::new(cli);
        command.arg("run").arg(&self.config).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().while_doing("start", cli)?;
        let mut shell = None;
        let mut console = Console::of(&mut child)?;
        let trouble = console.converse(|| shell = Some(start.elapsed())).and_then(|()| end_of(&mut child));
        // Whatever happened, nothing of it stays behind.
        let _ = child.kill().and_then(|()| child.wait());
        let said = std::fs::read(errors.path()).while_doing("read", errors.path())?;
        let transcript = console.seen + &String::from_utf8_lossy(&said);
        Ok(Outcome {
            name: self.name.clone(),
            shell,
            end: start.elapsed(),
            trouble: trouble.err(),
            transcript,
        })
    }
}

/// Waits for vmm-cli, which has to end well since the guest has turned itself off.
fn end_of(child: &mut Child) -> std::result::Result<(), String> {
    match wait(child, PATIENCE) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(format!("vmm-cli ended with {status} after the power was off")),
        Ok(None) => Err("vmm-cli did not end after the power was off".to_owned()),
        Err(error) => Err(format!("cannot wait for vmm-cli: {error}")),
    }
}

/// The two ends of the guest's serial console.
struct Console {
    keyboard: std::process::ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// All that was shown.
    seen: String,
    /// How much of it has been looked at.
    read: usize,
}

impl Console {
    fn of(child: &mut Child) -> Result<Self> {
        let (Some(keyboard), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("vmm-cli has no pipes"));
        };
        let (sender, screen) = mpsc::channel();
        // Ends with vmm-cli, whose end closes the pipe.
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
        Ok(Self { keyboard, screen, seen: String::new(), read: 0 })
    }

    /// From the prompt to the power-off.
    fn converse(&mut self, shell_reached: impl FnOnce()) -> std::result::Result<(), String> {
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

    fn ask(&mut self, line: &str, answer: &str) -> std::result::Result<(), String> {
        self.type_line(line)?;
        self.expect(answer)?;
        self.expect(PROMPT)
    }

    fn type_line(&mut self, line: &str) -> std::result::Result<(), String> {
        let typed = writeln!(self.keyboard, "{line}").and_then(|()| self.keyboard.flush());
        typed.map_err(|error| format!("cannot type `{line}`: {error}"))
    }

    /// Waits until `text` is shown, behind what was looked at before.
    fn expect(&mut self, text: &str) -> std::result::Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let new = self.seen.get(self.read..).unwrap_or_default();
            if let Some(place) = new.find(text) {
                self.read += place + text.len();
                return Ok(());
            }
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => return Err(format!("waited in vain for `{text}`")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("vmm-cli ended while `{text}` was waited for"));
                }
            }
        }
    }
}
