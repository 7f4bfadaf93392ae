//! `vmm-cli bench`: runs one guest many times in one process, and shows the distribution of its times.
//!
//! The machine is built once and a snapshot taken of it. Without interrupts and input, one machine is made from the snapshot
//! and reset to it after each run ([`Machine::reset`]). Otherwise each run has a new machine. Only the runs are timed.
//! The guest's output is discarded.
//!
//! A run that ends otherwise than the first one, or that does not meet `[expect]`, ends the benchmark with an error.

use std::fmt::Write as _;
use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use serde::Serialize;
use vmm_core::devices::console::{Console, Output};
use vmm_core::kvm_sys_wrap::{Kvm, install_termination_handlers};
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::Error;
use vmm_core::machine::reserved_vms::ReplayPurpose;
use vmm_core::record::Recording;
use vmm_core::snapshot::Snapshot;

use vmm_core::sandbox::system_calls::Features;

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::expectations;
use crate::machine_error::machine_error;
use crate::options::{Format, OverrideArgs};
use crate::prepare::{Files, Prepared};
use crate::quantiles::{Quantiles, ShortDuration};
use crate::sandbox::SandboxArgs;
use crate::status::Status;
use crate::stderr;
use crate::stdout;
use crate::suite::input::{self, InputFile};
use crate::table;
use crate::terminal::OutputCopy;
use crate::verdict::{FinishedRun, evaluate, is_as_expected};

/// A guest that can be run many times.
struct BenchGuest<'a> {
    config: &'a Config,
    files: &'a Files,
    kvm: &'a Kvm,
    snapshot: Snapshot,
    sandbox: SandboxArgs,
    /// Input of the guest, if there is one.
    input: Option<InputFile>,
    /// Copy of the guest's output, where `[expect]` checks it.
    printed: Option<OutputCopy>,
    start_method: StartMethod,
    /// Machine of the last run, if it can be reset.
    machine: Option<Machine>,
}

/// Method that prepares the next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum StartMethod {
    /// The machine of the last run is reset.
    Reset,
    /// A new machine is made from the snapshot.
    Copy,
}

/// Times of one run.
#[derive(Debug, Clone, Copy)]
struct BenchSample {
    run: Duration,
    begin: Duration,
}

/// Results. The JSON form has these keys; more may come, none go.
#[derive(Debug, Serialize)]
struct BenchResults {
    config: String,
    warmup: usize,
    runs: usize,
    end: &'static str,
    run_ns: Quantiles,
    begins: StartMethod,
    begin_ns: Quantiles,
    runs_per_second: f64,
    samples_ns: Vec<u128>,
}

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Configuration, or a kernel that needs none
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// Number of measured runs
    #[arg(long, short = 'n', value_name = "N", default_value = "1000")]
    pub(crate) runs: NonZeroUsize,
    /// Number of runs before the measured ones
    #[arg(long, value_name = "N", default_value = "10")]
    pub(crate) warmup: usize,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli bench`.
pub(crate) fn bench(args: &BenchArgs) -> Result<Status, Diagnostics> {
    let config = Config::load(&args.config, &args.overrides.to_overrides())?;
    let Prepared { machine: spec, files, notes, .. } = Prepared::new(&config)?;
    if args.format == Format::Text {
        Diagnostics(notes).eprint();
    }
    let host = |error: Error| Diagnostics::from(machine_error(&config, &error));
    install_termination_handlers().map_err(|error| host(error.into()))?;
    let kvm = Kvm::open().map_err(|error| host(error.into()))?;
    let start_method =
        if input::allows_reset(&config, &spec) { StartMethod::Reset } else { StartMethod::Copy };
    let input = InputFile::open(&config.input_file()).map_err(|error| {
        Diagnostic::error(Status::Host, format!("cannot read the guest's input: {error}"))
    })?;
    let built = Machine::build(&kvm, spec, &files, Console::with_output(io::sink()));
    let snapshot = built.and_then(|mut machine| machine.snapshot()).map_err(host)?;
    let mut guest = BenchGuest {
        config: &config,
        files: &files,
        kvm: &kvm,
        snapshot,
        sandbox: args.sandbox,
        input,
        printed: config
            .expect
            .as_ref()
            .filter(|expect| expect.checks_output())
            .map(|_| OutputCopy::default()),
        start_method,
        machine: None,
    };

    let end = match guest.run_first(args.format)? {
        ControlFlow::Continue(end) => end,
        ControlFlow::Break(status) => return Ok(status),
    };
    let mut samples = Vec::new();
    for number in 0..args.warmup.saturating_add(args.runs.get()) {
        let ControlFlow::Continue(sample) = guest.run_again(number, &end)? else { break };
        if number >= args.warmup {
            samples.push(sample);
        }
    }
    if let Some(results) = BenchResults::new(args, &end, guest.start_method, &samples) {
        match args.format {
            Format::Text => stdout::print(&results.text(&samples))?,
            Format::Json => stdout::print_json(&results)?,
        }
    }
    Ok(if samples.len() < args.runs.get() { Status::Interrupted } else { Status::Success })
}

impl BenchGuest<'_> {
    /// Runs the guest once and evaluates the run like `vmm-cli run`. Breaks with the status of `run` if it is no valid
    /// reference for further runs.
    fn run_first(&mut self, format: Format) -> Result<ControlFlow<Status, End>, Diagnostics> {
        let mut machine = self.prepare_machine()?;
        // A run that begins with a copy needs a new machine each time, and so does one after a crash that was examined.
        let expects_end = self.config.expect.as_ref().is_some_and(|expect| expect.end.is_some());
        let mut features = Features::SNAPSHOT | Features::REPLAY;
        features.set(Features::MACHINES, expects_end || matches!(self.start_method, StartMethod::Copy));
        machine.prepare_reset();
        // Dropped at the end of this run: later machines are to be new ones.
        let _reserved = machine.reserve_replays(ReplayPurpose::Autopsy).map_err(|error| self.host(&error))?;
        self.sandbox.enter(machine.spec(), features, [])?;
        let mut recording = Recording::new();
        let outcome =
            machine.runner().observe(&mut [&mut recording]).run().map_err(|error| self.host(&error))?;
        let (files, output, recording) = (self.files, self.output(), Some(&recording));
        let ended = FinishedRun { outcome: &outcome, machine: &machine, files, output: &output, recording };
        let (status, report) = evaluate(self.config, &ended)?;
        if is_as_expected(self.config, &report) {
            self.keep_machine(machine);
            return Ok(ControlFlow::Continue(outcome.end));
        }
        match format {
            Format::Text => report.eprint(self.config),
            Format::Json => stderr::print_line(format_args!("{}", report.to_json())),
        }
        Ok(ControlFlow::Break(status))
    }

    /// Runs the guest once more, and requires the same end. Breaks if the run was interrupted.
    fn run_again(&mut self, number: usize, end: &End) -> Result<ControlFlow<(), BenchSample>, Diagnostics> {
        let began = Instant::now();
        let mut machine = self.prepare_machine()?;
        let begin = began.elapsed();
        let began = Instant::now();
        let outcome = machine.run();
        let run = began.elapsed();
        let outcome = outcome.map_err(|error| self.host(&error))?;
        if outcome.end == End::Interrupted {
            return Ok(ControlFlow::Break(()));
        }
        // Runs are counted from 1, and the first is not one of these.
        let number = number.saturating_add(2);
        if outcome.end != *end {
            let message = format!("run {number} ended otherwise than the first: {}", outcome.end);
            let help = format!("the first: {end}");
            return Err(Diagnostic::error(Status::Unexpected, message).with_help(Some(help)).into());
        }
        if let Some(expect) = &self.config.expect {
            let mismatches = expectations::check(expect, &outcome, &machine, self.files, &self.output())
                .map_err(|error| self.host(&error))?;
            if !mismatches.is_empty() {
                let message = format!("run {number} did not do what the first did: [expect] is not met");
                let shown = mismatches.iter().map(|mismatch| mismatch.diagnostic(self.config));
                let first = Diagnostic::error(Status::Unexpected, message);
                return Err(Diagnostics(std::iter::once(first).chain(shown).collect()));
            }
        }
        self.keep_machine(machine);
        Ok(ControlFlow::Continue(BenchSample { run, begin }))
    }

    /// Returns a machine at its initial state.
    fn prepare_machine(&mut self) -> Result<Machine, Diagnostics> {
        if let Some(printed) = &self.printed {
            printed.clear();
        }
        if let Some(mut machine) = self.machine.take() {
            machine.reset().map_err(|error| self.host(&error))?;
            return Ok(machine);
        }
        let output =
            self.printed.as_ref().map_or_else(|| Output::new(io::sink()), |copy| Output::new(copy.clone()));
        let console = InputFile::console(self.input.as_ref(), output).map_err(|error| {
            Diagnostic::error(Status::Host, format!("cannot read the guest's input: {error}"))
        })?;
        self.snapshot.machine(self.kvm, console).map_err(|error| self.host(&error))
    }

    /// Keeps a machine for the next run if it can be reset. One that was examined cannot.
    fn keep_machine(&mut self, machine: Machine) {
        let can_reset = self.start_method == StartMethod::Reset && !machine.is_released();
        self.machine = can_reset.then_some(machine);
    }

    fn output(&self) -> Vec<u8> {
        self.printed.as_ref().map(OutputCopy::bytes).unwrap_or_default()
    }

    fn host(&self, error: &Error) -> Diagnostics {
        machine_error(self.config, error).into()
    }
}

impl BenchResults {
    /// Returns `None` without samples.
    fn new(args: &BenchArgs, end: &End, start_method: StartMethod, samples: &[BenchSample]) -> Option<Self> {
        let of = |time: fn(&BenchSample) -> Duration| samples.iter().map(time).collect::<Vec<_>>();
        let (runs, begin_times) = (of(|sample| sample.run), of(|sample| sample.begin));
        let total: Duration = runs.iter().chain(&begin_times).sum();
        Some(Self {
            config: args.config.display().to_string(),
            warmup: args.warmup,
            runs: samples.len(),
            end: end.name(),
            run_ns: Quantiles::from_times(&runs)?,
            begins: start_method,
            begin_ns: Quantiles::from_times(&begin_times)?,
            runs_per_second: u32::try_from(samples.len()).map_or(f64::INFINITY, f64::from)
                / total.as_secs_f64(),
            samples_ns: runs.iter().map(Duration::as_nanos).collect(),
        })
    }

    fn text(&self, samples: &[BenchSample]) -> String {
        let Self { config, warmup, runs, end, run_ns, begins, begin_ns, runs_per_second, .. } = self;
        let begins = match begins {
            StartMethod::Reset => "reset",
            StartMethod::Copy => "new copy",
        };
        let mut text = format!("{config}: {runs} runs after {warmup} to warm up, end: {end}\n\n");
        let head = ["", "min", "25 %", "median", "75 %", "99 %", "max"].map(str::to_owned);
        let row = |name: &str, points: &Quantiles| {
            let Quantiles { min, q1, median, q3, p99, max } = *points;
            let [a, b, c, d, e, f] =
                [min, q1, median, q3, p99, max].map(|time| ShortDuration(time).to_string());
            [name.to_owned(), a, b, c, d, e, f]
        };
        table::append(&mut text, &[head, row("run", run_ns), row(begins, begin_ns)]);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{runs_per_second:.0} runs a second, each with its {begins}\n");
        let times: Vec<Duration> = samples.iter().map(|sample| sample.run).collect();
        text + &run_ns.histogram(&times)
    }
}
