//! What is only printed: the JSON schema, completions, the manual page.

use std::io::Write;

use clap::CommandFactory;
use vmm_cli::config;
use vmm_cli::diagnostic::{Diagnostic, Diagnostics};
use vmm_cli::status::Status;

use super::fail;
use crate::args::{Cli, Format};

/// Prints on standard output. A reader that has gone away (`| head`) is no trouble.
pub(crate) fn out(text: &str) -> Status {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => trouble(&error),
        Ok(()) | Err(_) => Status::Success,
    }
}

/// `vmm-cli schema`.
pub(crate) fn schema() -> Status {
    out(&config::schema::text())
}

/// `vmm-cli completions SHELL`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Status {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vmm-cli", &mut text);
    out(&String::from_utf8_lossy(&text))
}

/// `vmm-cli man`.
pub(crate) fn man() -> Status {
    let mut text = Vec::new();
    match clap_mangen::Man::new(Cli::command()).render(&mut text) {
        Ok(()) => out(&String::from_utf8_lossy(&text)),
        Err(error) => trouble(&error),
    }
}

fn trouble(error: &std::io::Error) -> Status {
    let diagnostic = Diagnostic::error(Status::Host, format!("cannot write to standard output: {error}"));
    fail(&Diagnostics::from(diagnostic), Format::Text)
}
