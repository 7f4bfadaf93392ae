//! `boot` and `mode`: protocol and mode that the guest is started with.
//!
//! A mode alone means a plain program in that mode. A boot protocol has its own mode. With neither, the guest's file
//! decides, and checks that depend on the mode run when it has been read: then the document is lowered again.

use vmm_core::spec::mode::{Mode, Ring};
use vmm_loader::boot::Protocol;

use super::Context;
use crate::config::StartChoice;
use crate::config::problem::{ConfigProblem, ConfigProblems};
use crate::config::schema::Document;

/// Returns protocol and mode from the document, completed by those that the guest's file has `decided`.
pub(super) fn start(raw: &Document, decided: StartChoice, problems: &mut ConfigProblems) -> StartChoice {
    let mode = raw.mode.as_ref().map(|at| at.value);
    let boot = raw.boot.as_ref().map(|at| at.value);
    let guest = raw.guest.as_ref().map(|at| &at.value);
    let is_flat = guest.is_some_and(|guest| guest.flat.is_some()) || boot == Some(Protocol::Flat);
    let unread = |key| problems.is_unread(key);
    let nothing_known = unread("mode") || unread("boot") || unread("guest") || guest.is_none();

    let known = match (boot, mode) {
        (Some(protocol), mode) => {
            let modes = modes(protocol);
            if let (Some(mode), Some(at)) = (mode, &raw.mode)
                && !modes.contains(&mode)
            {
                let names: Vec<&str> = modes.iter().map(|mode| mode.name()).collect();
                let names = names.join(" or ");
                let problem = ConfigProblem::new(
                    &at.span,
                    format!("{protocol} starts the guest in {names} mode, not {mode}"),
                );
                let problem = match &raw.boot {
                    Some(boot) => problem.related(&boot.span, "the boot protocol is chosen here"),
                    None => problem,
                };
                problems.push(problem.help("leave `mode` out"));
            }
            StartChoice {
                protocol: Some(protocol),
                mode: mode.or(if let [only] = modes[..] { Some(only) } else { None }),
            }
        }
        (None, Some(mode)) => StartChoice {
            protocol: Some(if is_flat { Protocol::Flat } else { Protocol::Elf }),
            mode: Some(mode),
        },
        (None, None) => StartChoice { protocol: is_flat.then_some(Protocol::Flat), mode: None },
    };
    if is_flat && known.mode.is_none() && !nothing_known {
        let names = Mode::ALL.map(|mode| format!("\"{mode}\"")).join(", ");
        let problem =
            ConfigProblem::in_file("`mode` is missing: a flat binary does not say how wide its code is");
        problems.push(problem.help(format!("add `mode = ...`, one of {names}")));
    }
    StartChoice { protocol: known.protocol.or(decided.protocol), mode: known.mode.or(decided.mode) }
}

/// Checks that no key contradicts the boot protocol.
pub(super) fn check(cx: &mut Context<'_>) {
    let Some(protocol) = cx.protocol.filter(|protocol| !protocol.is_plain()) else { return };
    if let Some(ring) = cx.document.ring.as_ref().filter(|ring| ring.value.0 == Ring::User) {
        cx.problem(
            ConfigProblem::new(&ring.span, format!("{protocol} starts the guest in ring 0"))
                .help("leave `ring` out"),
        );
    }
    let guest = cx.document.guest.as_ref().map(|at| &at.value);
    if let Some(entry) = guest.and_then(|guest| guest.entry.as_ref()) {
        let problem = ConfigProblem::new(&entry.span, format!("{protocol} takes the entry from the file"));
        cx.problem(problem.help("leave `entry` out, or start the file with `boot = \"elf\"`"));
    }
}

/// Returns the modes that a protocol can start a guest in, the usual one first.
fn modes(protocol: Protocol) -> Vec<Mode> {
    if protocol.is_plain() {
        return Mode::ALL.to_vec();
    }
    protocol.entry_widths().iter().copied().map(Mode::from_entry_width).collect()
}
