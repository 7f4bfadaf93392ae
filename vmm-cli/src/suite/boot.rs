//! `test.snapshot-at`: the guest of several cases runs once up to that place, and each case begins with a copy of it there.
//!
//! The first thread that needs it lets it run; the others wait. What kept the guest from getting there is the failure of
//! each case.

use std::sync::{Arc, OnceLock};

use vmm_cli::config::Config;
use vmm_cli::diagnostic::Diagnostics;
use vmm_cli::place::Place;
use vmm_core::Gva;
use vmm_core::console::{Console, NoInput, Output};
use vmm_core::machine::Machine;
use vmm_core::run_to::Point;
use vmm_core::snapshot::Snapshot;

use super::attempt::{Resources, Running, address};
use crate::commands::run::host_error;
use crate::prepare::Prepared;
use crate::stopped::{physical, too_early};
use crate::terminal::Copy;

/// The one run of several cases, once somebody has begun it. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Boot(Arc<OnceLock<Result<Booted, Diagnostics>>>);

/// Where all copies begin.
#[derive(Debug)]
pub(super) struct Booted {
    pub(super) snapshot: Snapshot,
    /// What the guest had printed by then.
    pub(super) printed: Vec<u8>,
}

impl Boot {
    /// The copy's original, made by whoever comes first.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn get(
        &self,
        config: &Config,
        prepared: &Prepared,
        place: &Place,
        resources: &Resources,
        running: &Running,
    ) -> Result<&Booted, Diagnostics> {
        let booted = self.0.get_or_init(|| boot(config, prepared, place, resources, running));
        booted.as_ref().map_err(Clone::clone)
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
    let point = Point::Address { gva: Gva(address), gpa: physical(files, address) };
    let reached = machine.reach(point);
    running.forget();
    let (mut machine, end) = reached.map_err(host)?;
    let snapshot = match end {
        Some(end) => Err(too_early(&machine, &end, &format!("at {place}")).into()),
        None => machine.snapshot().map_err(host),
    };
    resources.close(machine);
    Ok(Booted { snapshot: snapshot?, printed: copy.bytes() })
}
