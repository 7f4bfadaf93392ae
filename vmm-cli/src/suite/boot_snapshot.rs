//! Shared part of the cases of one configuration. The configuration and the guest's files are read once. With
//! `test.snapshot-at` the guest runs once up to that address, and each case starts with a copy of the machine there.
//!
//! The first thread that needs it prepares it, and the others wait. If that fails, each case fails with the same error.

use std::sync::{Arc, OnceLock};

use vmm_core::Gva;
use vmm_core::debugger::run_until::run_until;
use vmm_core::devices::console::{Console, NoInput, Output};
use vmm_core::machine::Machine;
use vmm_core::machine::stop_point::StopPoint;
use vmm_core::snapshot::Snapshot;

use super::case_setup::resolve_address;
use super::input;
use super::resources::{ActiveRun, Resources};
use crate::config::Config;
use crate::config::address_expr::AddressExpr;
use crate::diagnostic::Diagnostics;
use crate::inspect::{ended_before_stop, load_address};
use crate::machine_error::machine_error;
use crate::prepare::Prepared;
use crate::terminal::OutputCopy;

/// Fixture that several cases share, prepared by the first user. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedFixture(Arc<OnceLock<Result<Arc<Fixture>, Diagnostics>>>);

/// A configuration that is ready to run.
pub(super) struct Fixture {
    pub(super) config: Config,
    pub(super) prepared: Prepared,
    /// Snapshot that the cases start from, with `test.snapshot-at`.
    pub(super) boot_snapshot: Option<BootSnapshot>,
    /// True if a machine can be reset for another case.
    pub(super) allows_reset: bool,
}

/// Machine that the cases start from.
#[derive(Debug)]
pub(super) struct BootSnapshot {
    pub(super) snapshot: Snapshot,
    /// Output of the guest up to the snapshot.
    pub(super) printed: Vec<u8>,
}

impl SharedFixture {
    /// Returns the fixture, prepared by the first caller.
    ///
    /// # Errors
    /// Returns the error of the preparation, to every caller.
    pub(super) fn get_or_init(
        &self,
        prepare: impl FnOnce() -> Result<Fixture, Diagnostics>,
    ) -> Result<Arc<Fixture>, Diagnostics> {
        self.0.get_or_init(|| prepare().map(Arc::new)).clone()
    }

    /// Returns true if both are handles to the same fixture.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Fixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("booted", &self.boot_snapshot).finish_non_exhaustive()
    }
}

impl Fixture {
    /// Reads the guest's files, and runs the guest to the snapshot address.
    pub(super) fn new(
        config: Config,
        resources: &Resources,
        running: &ActiveRun,
    ) -> Result<Self, Diagnostics> {
        let prepared = Prepared::with(&config, resources.reader())?;
        let place = config.test.as_ref().and_then(|plan| plan.snapshot_at.as_ref());
        let booted =
            place.map(|place| run_to_snapshot(&config, &prepared, place, resources, running)).transpose()?;
        let allows_reset = input::allows_reset(&config, &prepared.machine);
        Ok(Self { config, prepared, boot_snapshot: booted, allows_reset })
    }
}

fn run_to_snapshot(
    config: &Config,
    prepared: &Prepared,
    place: &AddressExpr,
    resources: &Resources,
    running: &ActiveRun,
) -> Result<BootSnapshot, Diagnostics> {
    let Prepared { machine: spec, files, .. } = prepared;
    let address = resolve_address(config, files, place, "test.snapshot-at")?;
    let copy = OutputCopy::default();
    let output = Output::new(copy.clone());
    let console = Console { output, input: Box::new(NoInput), input_fd: None };
    let host = |error| Diagnostics::from(machine_error(config, &error));
    let machine = Machine::build(resources.kvm(), spec.clone(), files, console).map_err(host)?;
    running.set(&machine).map_err(host)?;
    let point = StopPoint::Address { gva: Gva(address), gpa: load_address(files, address) };
    let reached = run_until(machine, point);
    running.clear();
    let (mut machine, end) = reached.map_err(host)?;
    let snapshot = match end {
        Some(end) => Err(ended_before_stop(&machine, &end, &format!("at {place}")).into()),
        None => machine.snapshot().map_err(host),
    };
    resources.close(machine);
    Ok(BootSnapshot { snapshot: snapshot?, printed: copy.bytes() })
}
