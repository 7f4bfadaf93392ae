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

/// `vmm-cli man [SUBCOMMAND]`.
pub(crate) fn man(subcommand: Option<&str>) -> Status {
    let mut command = Cli::command();
    command.build();
    let page = match subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            // A page of its own is found under the name with a dash, as git's are.
            Some(found) => found.clone().name(format!("vmm-cli-{name}")),
            None => {
                let diagnostic = Diagnostic::error(Status::Configuration, format!("there is no subcommand `{name}`"));
                return fail(&Diagnostics::from(diagnostic), Format::Text);
            }
        },
    };
    let mut text = Vec::new();
    match clap_mangen::Man::new(page).render(&mut text) {
        Ok(()) => out(&String::from_utf8_lossy(&text)),
        Err(error) => trouble(&error),
    }
}

fn trouble(error: &std::io::Error) -> Status {
    let diagnostic = Diagnostic::error(Status::Host, format!("cannot write to standard output: {error}"));
    fail(&Diagnostics::from(diagnostic), Format::Text)
}
