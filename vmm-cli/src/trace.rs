//! `run --trace`, `--trace-out` and `--stats`: traces and statistics of a run.
//!
//! | file | contents |
//! |---|---|
//! | `options.rs`, `filter.rs` | options and filters |
//! | `calls.rs` | observer of KVM calls |
//! | `exits.rs` with `access.rs`, `symbolize.rs`, `reg_diff.rs` | observer of exits and single steps |
//! | `event.rs` | events as values, lines and JSON |
//! | `log.rs`, `trace_event.rs` | destinations of events |
//!
//! [`Tracer`] combines them. A run without these options has no observer: an exit takes not one branch more, and
//! `/dev/kvm` is opened without a call observer.

mod access;
mod calls;
mod event;
mod exits;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod log;
mod options;
mod reg_diff;
mod statistics;
mod symbolize;
mod trace_event;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_core::kvm_sys_wrap::{CallObserver, Kvm};
use vmm_core::machine::Machine;
use vmm_core::machine::error::Error;
use vmm_core::machine::observer::Observer;
use vmm_core::machine::run_loop::RunOutcome;
use vmm_core::sandbox::DirectoryUse;

use crate::bounded_writer::BoundedWriter;
use crate::diagnostic::{Diagnostic, Location};
use crate::output_file::OutputFile;
use crate::prepare::Files;
use crate::status::Status;
use calls::CallWatch;
use exits::ExitWatch;
use filter::TraceFilter;
use log::{EventSinks, Log, LogSettings};
pub(crate) use options::{TraceArgs, TraceKind};
pub(crate) use statistics::Statistics;
use trace_event::TraceFile;

/// Observers of one run.
#[derive(Default)]
pub(crate) struct Tracer {
    /// Observer of calls, if anything is observed.
    calls: Option<Arc<CallWatch>>,
    /// Log and filter, if anything is traced.
    log: Option<(Arc<Log>, TraceFilter)>,
    /// Name of the trace file, for messages.
    file: Option<String>,
    /// Directory that the trace file will be named in.
    directory: Option<PathBuf>,
    stepping: bool,
    stats: bool,
}

impl Tracer {
    /// Prepares the observers of a run of `config`. `limit` is its time limit: nothing waits longer for a reader of the trace.
    ///
    /// # Errors
    /// The trace file cannot be created.
    pub(crate) fn new(
        options: &TraceArgs,
        config: &Path,
        json: bool,
        force: bool,
        limit: Option<Duration>,
    ) -> Result<Self, Diagnostic> {
        if !options.traces() && !options.stats {
            return Ok(Self::default());
        }
        let file = options.trace_out.as_deref();
        let mut directory = None;
        let out = file.map(|path| {
            let out = OutputFile::create_hidden(path, "the trace", force)?;
            directory = out.directory().map(|(path, _)| path.to_owned());
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
            let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
            let lines = BoundedWriter::new(rustix::stdio::stderr(), deadline);
            let log = Log::new(settings, Box::new(lines), out.transpose()?);
            Some((Arc::new(log), TraceFilter::new(&options.trace_filter)))
        } else {
            None
        };
        let calls = Some(Arc::new(CallWatch::new(log.clone())));
        let file = file.map(|path| path.display().to_string());
        Ok(Self { calls, log, file, directory, stepping, stats: options.stats })
    }

    /// Returns the directory that the trace file will be named in.
    pub(crate) fn directory(&self) -> Option<(&Path, DirectoryUse)> {
        self.directory.as_deref().map(|path| (path, DirectoryUse::OutputFiles))
    }

    /// Opens `/dev/kvm`, with a call observer if anything is observed.
    ///
    /// # Errors
    /// See [`Kvm::open`].
    pub(crate) fn open_kvm(&self) -> Result<Kvm, vmm_core::kvm_sys_wrap::Error> {
        let observer = self.calls.clone().map(|calls| calls as Arc<dyn CallObserver>);
        Kvm::open_with(Path::new(Kvm::DEVICE), observer)
    }

    /// Runs the machine to its end, with the observers that were requested and `others`.
    ///
    /// # Errors
    /// See [`Machine::run`].
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

    /// Shows the last events, and ends the trace file.
    ///
    /// # Errors
    /// The trace file could not be written.
    pub(crate) fn finish(&self) -> Result<(), Diagnostic> {
        let Some((log, _)) = &self.log else { return Ok(()) };
        let file = log.finish();
        let file = file.map_err(|error| unwritable(self.file.as_deref().unwrap_or("the trace"), &error))?;
        file.map_or(Ok(()), OutputFile::persist)
    }
}

/// Finishes the trace of a run that failed or never started.
impl Drop for Tracer {
    fn drop(&mut self) {
        // Ignored: the error that ends the program is reported.
        let _ = self.finish();
    }
}

fn unwritable(file: impl ToString, error: &io::Error) -> Diagnostic {
    Diagnostic::error(Status::Host, format!("cannot write the trace: {error}"))
        .at(Location::File(file.to_string()))
}
