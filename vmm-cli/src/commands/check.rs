//! `vmm-cli check`: all that can be known of configurations without KVM.

use vmm_cli::config::Config;
use vmm_cli::diagnostic::{Diagnostics, json};
use vmm_cli::status::Status;

use super::{fail, print};
use crate::args::{Check, Format};
use crate::prepare::Prepared;

pub(crate) fn check(options: &Check) -> Status {
    let overrides = options.overrides.collect();
    let mut problems = Vec::new();
    let mut good = String::new();
    for path in &options.configs {
        let prepared = Config::load(path, &overrides).and_then(|config| Prepared::new(&config));
        match prepared {
            Ok(prepared) => {
                let machine = &prepared.machine;
                let mode = machine.boot.mode;
                good.push_str(&format!("{}: ok, mode {mode}\n", path.display()));
            }
            Err(Diagnostics(more)) => problems.extend(more),
        }
    }
    let problems = Diagnostics(problems);
    match options.format {
        Format::Text => match print::out(&good) {
            Status::Success if problems.0.is_empty() => Status::Success,
            Status::Success => fail(&problems, Format::Text),
            trouble => trouble,
        },
        // An array of all problems; an empty one where there are none.
        Format::Json => match print::out(&format!("{}\n", json::render(&problems))) {
            Status::Success => problems.status(),
            trouble => trouble,
        },
    }
}
