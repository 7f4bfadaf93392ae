//! What is only printed: the JSON schema, completions, the manual page.

use std::io::Write;

use crate::config;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::status::Status;
use clap::CommandFactory;

use crate::args::Cli;

/// Prints on standard output. A reader that has gone away (`| head`) is no trouble.
pub(crate) fn out(text: &str) -> Result<(), Diagnostics> {
    bytes(text.as_bytes())
}

/// The same with a value as JSON, in one line.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Diagnostics> {
    // Strings, numbers and lists always serialize: the fallback is never seen.
    out(&(serde_json::to_string(value).unwrap_or_default() + "\n"))
}

/// Appends rows to a text, each column as wide as its widest cell.
pub(crate) fn table<const COLUMNS: usize>(text: &mut String, rows: &[[String; COLUMNS]]) {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
}

/// The same with bytes of any kind.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Diagnostics> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(trouble(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `vmm-cli schema`.
pub(crate) fn schema() -> Result<Status, Diagnostics> {
    out(&config::schema::text())?;
    Ok(Status::Success)
}

/// `vmm-cli completions SHELL`.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Status, Diagnostics> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vmm-cli", &mut text);
    out(&String::from_utf8_lossy(&text))?;
    Ok(Status::Success)
}

/// `vmm-cli man [SUBCOMMAND]`.
pub(crate) fn man(subcommand: Option<&str>) -> Result<Status, Diagnostics> {
    let mut command = Cli::command();
    command.build();
    let page = match subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            // A page of its own is found under the name with a dash, as git's are.
            Some(found) => found.clone().name(format!("vmm-cli-{name}")),
            None => {
                let message = format!("there is no subcommand `{name}`");
                return Err(Diagnostic::error(Status::Configuration, message).into());
            }
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(|error| trouble(&error))?;
    out(&String::from_utf8_lossy(&text))?;
    Ok(Status::Success)
}

fn trouble(error: &std::io::Error) -> Diagnostics {
    Diagnostic::error(Status::Host, format!("cannot write to standard output: {error}")).into()
}
