//! Panics of the standard library that are no bugs: the host has no memory for the signal stack of a new thread.

use std::panic::{PanicHookInfo, set_hook, take_hook};

use crate::status::Status;
use crate::stderr;

/// Texts of std where a new thread gets its signal stack, before it runs any code of ours.
const SIGNAL_STACK_PANICS: [&str; 2] =
    ["failed to allocate an alternative stack", "failed to set up alternative stack guard page"];

/// Makes such a panic an error of the host. All others go to the hook that was there before.
pub(crate) fn install_hook() {
    let default = take_hook();
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
        if SIGNAL_STACK_PANICS.iter().any(|start| text.starts_with(start)) {
            stderr::print_line(format_args!("error: cannot start a thread of the machine: {text}"));
            std::process::exit(Status::Host.code().into());
        }
        default(info);
    }));
}
