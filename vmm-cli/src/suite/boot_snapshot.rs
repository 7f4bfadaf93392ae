//! What the cases of one configuration have in common: it is read once, with the guest's files, and with `test.snapshot-at`
//! the guest runs once up to that place; each case begins with a copy of it there.
//!
//! The first thread that needs it does it; the others wait. What kept it from being done is the failure of each case.

use std::sync::{Arc, OnceLock};

use crate::address_expr::Place;
use crate::config::Config;
use crate::diagnostic::Diagnostics;
use vmm_core::Gva;
use vmm_core::debugger::run_until::run_until;
use vmm_core::devices::console::{Console, NoInput, Output};
use vmm_core::machine::Machine;
use vmm_core::machine::stop_point::StopPoint;
use vmm_core::snapshot::Snapshot;

use super::case::Case;
use super::case_setup::address;
use super::input;
use super::runner::{Resources, Running};
use crate::commands::run::host_error;
use crate::inspect::{physical, too_early};
use crate::prepare::Prepared;
use crate::terminal::Copy;

/// What several cases have in common, once somebody has made it. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Common(Arc<OnceLock<Result<Arc<Ready>, Diagnostics>>>);

/// A configuration, ready to run.
pub(super) struct Ready {
    pub(super) config: Config,
    pub(super) prepared: Prepared,
    /// With `test.snapshot-at`.
    pub(super) booted: Option<Booted>,
    /// Whether a machine can be used for another case.
    pub(super) allows_reset: bool,
}

/// Where all copies begin.
#[derive(Debug)]
pub(super) struct Booted {
    pub(super) snapshot: Snapshot,
    /// What the guest had printed by then.
    pub(super) printed: Vec<u8>,
}

impl Common {
    /// What all cases have in common, made by whoever comes first.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) fn get(
        &self,
        case: &Case,
        resources: &Resources,
        running: &Running,
    ) -> Result<Arc<Ready>, Diagnostics> {
        self.0.get_or_init(|| Ready::new(case, resources, running).map(Arc::new)).clone()
    }

    /// Whether both are the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("booted", &self.booted).finish_non_exhaustive()
    }
}

impl Ready {
    /// Reads it all, and lets the guest run to where the cases begin.
    pub(super) fn new(case: &Case, resources: &Resources, running: &Running) -> Result<Self, Diagnostics> {
        let config = case.config()?;
        let prepared = Prepared::with(&config, resources.reader())?;
        let place = config.test.as_ref().and_then(|plan| plan.snapshot_at.as_ref());
        let booted = place.map(|place| boot(&config, &prepared, place, resources, running)).transpose()?;
        let allows_reset = input::allows_reset(&case.file, &prepared.machine);
        Ok(Self { config, prepared, booted, allows_reset })
    }
}

fn boot(
    config: &Config,
    prepared: &Prepared,
    place: &Place,
    resources: &Resources,
    running: &Running,
) -> Result<Booted, Diagnostics> {
    let Prepared { machine: spec, files, .. } = prepared;
    let address = address(config, files, place, "test.snapshot-at")?;
    let copy = Copy::default();
    let output = Output::new(copy.clone());
    let console = Console { output, input: Box::new(NoInput), arrival: None };
    let host = |error| Diagnostics::from(host_error(config, &error));
    let machine = Machine::build(resources.kvm(), spec.clone(), files, console).map_err(host)?;
    running.watch(&machine).map_err(host)?;
    let point = StopPoint::Address { gva: Gva(address), gpa: physical(files, address) };
    let reached = run_until(machine, point);
    running.forget();
    let (mut machine, end) = reached.map_err(host)?;
    let snapshot = match end {
        Some(end) => Err(too_early(&machine, &end, &format!("at {place}")).into()),
        None => machine.snapshot().map_err(host),
    };
    resources.close(machine);
    Ok(Booted { snapshot: snapshot?, printed: copy.bytes() })
}
