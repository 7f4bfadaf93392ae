//! Makes diagnostics of errors of the machine.

use vmm_core::machine::error::{Blame, Error};

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Location};
use crate::status::Status;

/// Returns a diagnostic with the error and its causes, at the key that led to it where there is one.
pub(crate) fn machine_error(config: &Config, error: &Error) -> Diagnostic {
    let message = with_causes(error);
    let (status, key) = match error.blame() {
        Blame::Configuration => (Status::Configuration, Some("guest")),
        Blame::HostLacks => (Status::Refused, Some("mode")),
        Blame::Host => (Status::Host, None),
        Blame::Bug => (Status::Bug, None),
    };
    let location = key.map_or(Location::Nowhere, |key| config.location(key));
    Diagnostic::error(status, message).at(location).with_help(crate::help::for_machine(error))
}

/// Returns the text of an error and of its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
