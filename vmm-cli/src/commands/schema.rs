//! `vmm-cli schema`: prints the JSON schema of configurations.

use crate::config;
use crate::diagnostic::Diagnostics;
use crate::status::Status;
use crate::stdout;

/// Runs `vmm-cli schema`.
pub(crate) fn schema() -> Result<Status, Diagnostics> {
    stdout::print(&config::json_schema::text())?;
    Ok(Status::Success)
}
