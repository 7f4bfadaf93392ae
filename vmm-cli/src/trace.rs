//! `run --trace`, `--trace-out` and `--stats`: a run as it happens, and what it consisted of.
//!
//! | file | is |
//! |---|---|
//! | `options.rs`, `filter.rs` | what is asked for |
//! | `calls.rs` | the observer of calls to KVM |
//! | `exits.rs` with `access.rs`, `places.rs`, `changes.rs` | the observer of exits and single steps |
//! | `event.rs` | what was seen, as a value, as a line, as JSON |
//! | `log.rs`, `trace_event.rs` | where it goes |
//!
//! [`Tracer`] ties them together. A run that asks for none of it has no observer: not one branch more is taken for an
//! exit, and `/dev/kvm` is opened as if none of this existed.

mod access;
mod calls;
mod event;
mod exits;
mod filter;
mod log;
mod options;
mod reg_diff;
mod statistics;
mod symbolize;
mod trace_event;

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Location};
use crate::status::Status;
use vmm_core::kvm_sys_wrap::{CallObserver, Kvm};
use vmm_core::machine::Machine;
use vmm_core::machine::error::Error;
use vmm_core::machine::observer::Observer;
use vmm_core::machine::run_loop::RunOutcome;

pub(crate) use options::{TraceArgs, TraceKind};

use crate::output_file;
use crate::prepare::Files;
use calls::CallWatch;
use exits::ExitWatch;
use filter::TraceFilter;
use log::{EventSinks, Log, LogSettings};
pub(crate) use statistics::Statistics;
use trace_event::TraceFile;

/// Everything that watches one run.
#[derive(Default)]
pub(crate) struct Tracer {
    /// There if anything is watched.
    calls: Option<Arc<CallWatch>>,
    /// There if anything is traced.
    log: Option<(Arc<Log>, TraceFilter)>,
    /// The trace file, for messages.
    file: Option<String>,
    stepping: bool,
    stats: bool,
}

impl Tracer {
    /// Prepares to watch a run of `config` as asked for.
    ///
    /// # Errors
    /// A trace file that cannot be made.
    pub(crate) fn new(
        options: &TraceArgs,
        config: &Path,
        json: bool,
        force: bool,
    ) -> Result<Self, Diagnostic> {
        if !options.traces() && !options.stats {
            return Ok(Self::default());
        }
        let file = options.trace_out.as_deref();
        let out = file.map(|path| {
            let out = Box::new(output_file::create(path, "the trace", force)?);
            TraceFile::new(out, &config.display().to_string())
                .map_err(|error| unwritable(path.display(), &error))
        });
        let filed = file.is_some();
        let wanted = |what| EventSinks {
            shown: options.shows(what),
            filed: filed && (what != TraceKind::Steps || options.shows(what)),
        };
        let settings = LogSettings {
            calls: wanted(TraceKind::Calls),
            exits: wanted(TraceKind::Exits),
            steps: wanted(TraceKind::Steps),
            json,
            last: options.trace_last,
        };
        let stepping = options.shows(TraceKind::Steps);
        let log = if options.traces() {
            let log = Log::new(settings, Box::new(io::stderr()), out.transpose()?);
            Some((Arc::new(log), TraceFilter::new(&options.trace_filter)))
        } else {
            None
        };
        let calls = Some(Arc::new(CallWatch::new(log.clone())));
        let file = file.map(|path| path.display().to_string());
        Ok(Self { calls, log, file, stepping, stats: options.stats })
    }

    /// Opens `/dev/kvm`, with all calls watched if any are.
    ///
    /// # Errors
    /// As [`Kvm::open`].
    pub(crate) fn open_kvm(&self) -> Result<Kvm, vmm_core::kvm_sys_wrap::Error> {
        let observer = self.calls.clone().map(|calls| calls as Arc<dyn CallObserver>);
        Kvm::open_with(Path::new(Kvm::DEVICE), observer)
    }

    /// Runs the machine to its end, watched as asked for and by `others`.
    ///
    /// # Errors
    /// As [`MachineSummary::run`].
    pub(crate) fn run(
        &self,
        machine: &mut Machine,
        files: &Files,
        others: &mut [&mut dyn Observer],
    ) -> Result<(RunOutcome, Option<Statistics>), Error> {
        let Some(calls) = &self.calls else { return Ok((machine.runner().observe(others).run()?, None)) };
        let mut exits = ExitWatch::new(calls, self.log.clone(), self.stepping, self.stats, machine, files);
        let mut observers: Vec<&mut dyn Observer> = Vec::new();
        for other in others {
            observers.push(&mut **other);
        }
        observers.push(&mut exits);
        let outcome = machine.runner().observe(&mut observers).step(self.stepping).run();
        let total = calls.started().elapsed();
        let tally = exits.finish();
        let outcome = outcome?;
        let statistics = tally.map(|tally| {
            calls.unobserved(|| Statistics::new(&outcome, &calls.times(), total, tally, machine, files))
        });
        Ok((outcome, statistics))
    }

    /// Shows what was kept, and ends the trace file.
    ///
    /// # Errors
    /// A trace file that could not be written.
    pub(crate) fn finish(&self) -> Result<(), Diagnostic> {
        let Some((log, _)) = &self.log else { return Ok(()) };
        log.finish().map_err(|error| unwritable(self.file.as_deref().unwrap_or("the trace"), &error))
    }
}

/// A run that never began, or failed, leaves what was traced of it.
impl Drop for Tracer {
    fn drop(&mut self) {
        // The error that ends the program is the one to show.
        let _ = self.finish();
    }
}

fn unwritable(file: impl ToString, error: &io::Error) -> Diagnostic {
    Diagnostic::error(Status::Host, format!("cannot write the trace: {error}"))
        .at(Location::File(file.to_string()))
}
