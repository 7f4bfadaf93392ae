//! `vmm-cli run`: builds the machine of a configuration, runs it, and reports its end.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use vmm_core::devices::console::Console;
use vmm_core::kvm_sys_wrap::install_termination_handlers;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::Error;
use vmm_core::machine::observer::Observer;
use vmm_core::machine::reserved_vms::ReplayPurpose;
use vmm_core::record::Recording;
use vmm_core::sandbox::DirectoryUse;
use vmm_core::sandbox::system_calls::Features;

use crate::config::Config;
use crate::core_file;
use crate::diagnostic::Diagnostics;
use crate::gdb;
use crate::machine_error::machine_error;
use crate::options::{Format, OverrideArgs};
use crate::output_file::OutputFile;
use crate::prepare::Prepared;
use crate::profile::RunProfile;
use crate::sandbox::SandboxArgs;
use crate::snapshot_file;
use crate::status::Status;
use crate::stderr;
use crate::terminal::{self, OutputCopy, StdoutOutput};
use crate::trace::TraceArgs;
use crate::trace::Tracer;
use crate::verdict::{FinishedRun, evaluate};

/// Options of `run`.
#[derive(Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// Configuration, or a kernel that needs none
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Continue from this snapshot of the same machine
    #[arg(long, value_name = "SNAPSHOT", value_hint = ValueHint::FilePath, conflicts_with = "gdb")]
    pub(crate) from: Option<PathBuf>,
    /// Write a report of the run to this file, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
    /// Let --report, --trace-out and --core replace files
    #[arg(long)]
    pub(crate) force: bool,
    /// Write registers and all memory at the end of the run to this ELF core file, for gdb
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) core: Option<PathBuf>,
    /// Wait for gdb at this Unix socket or TCP port, and let it control the guest [default: a socket of your own]
    #[arg(long, value_name = "ADDR|PATH", num_args = 0..=1, default_missing_value = gdb::PRIVATE_SOCKET)]
    #[arg(conflicts_with_all = ["trace", "trace_out", "stats"])]
    pub(crate) gdb: Option<String>,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// Do not examine why a guest died
    #[arg(long)]
    pub(crate) no_autopsy: bool,
    /// Show how long each step of the run took
    #[arg(long, conflicts_with_all = ["trace", "trace_out", "stats", "gdb"])]
    pub(crate) timing: bool,
    /// Output format of errors on standard error
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli run`.
pub(crate) fn run(args: &RunArgs) -> Result<Status, Diagnostics> {
    let mut timing = RunProfile::new(args.timing);
    let config = Config::load(&args.config, &args.overrides.to_overrides_with_notes())?;
    timing.step("configuration");
    let Prepared { machine: spec, layout, files, notes, .. } = Prepared::new(&config)?;
    if args.format == Format::Text {
        Diagnostics(notes).eprint();
    }
    timing.step("guest's files and layout");
    // Opened before the run, so that an unwritable path is reported early.
    let report = args.report.as_deref();
    let report_file = report.map(|path| OutputFile::create(path, "the report", args.force)).transpose()?;
    let core =
        args.core.as_deref().map(|path| OutputFile::create(path, "the core file", args.force)).transpose()?;
    let json = args.format == Format::Json;
    // A run that gdb controls has no time limit.
    let limit = spec.limits.time.filter(|_| args.gdb.is_none());
    let watch = Tracer::new(&args.trace, &args.config, json, args.force, limit)?;

    let copy = config.expect.as_ref().filter(|expect| expect.checks_output()).map(|_| OutputCopy::default());
    let host = |error: Error| Diagnostics::from(machine_error(&config, &error));
    // Installed before the terminal becomes raw, so that no signal ends the process without restoring it.
    install_termination_handlers().map_err(|error| host(error.into()))?;
    let console = terminal::console(StdoutOutput::new(copy.clone(), limit), &spec, args.gdb.is_some());
    timing.step("console and signals");
    let kvm = timing.open_kvm().unwrap_or_else(|| watch.open_kvm()).map_err(|error| host(error.into()))?;
    let again = args.gdb.as_ref().map(|_| spec.clone());
    let machine = match &args.from {
        None => Machine::build(&kvm, spec, &files, console).map_err(host),
        Some(from) => {
            let (snapshot, printed) = snapshot_file::take_up(from, &config, spec, layout, &files, &kvm)?;
            if let Some(copy) = &copy {
                copy.add(&printed);
            }
            snapshot.machine(&kvm, console).map_err(host)
        }
    };
    let mut machine = machine?;
    timing.step("machine");
    // Held until the run was examined. The debugger reserves its own.
    let purpose = match (&args.gdb, args.no_autopsy) {
        (None, false) => ReplayPurpose::Autopsy,
        (Some(_), _) | (None, true) => ReplayPurpose::None,
    };
    let _reserved = machine.reserve_replays(purpose).map_err(host)?;
    let outputs = [report_file.as_ref(), core.as_ref()].into_iter().flatten();
    let directories: Vec<_> = outputs.filter_map(OutputFile::directory).chain(watch.directory()).collect();
    let mut recording = Recording::new();
    let mut can_be_replayed = true;
    let (outcome, stats) = if let (Some(address), Some(spec)) = (&args.gdb, again) {
        let build = || Machine::build(&kvm, spec.clone(), &files, Console::with_output(std::io::sink()));
        let confine = |socket: &[(&Path, DirectoryUse)]| {
            let directories = directories.iter().chain(socket).copied();
            args.sandbox.enter(&spec, Features::REPLAY | Features::GDB, directories)
        };
        let run = gdb::run(machine, build, (config.guest.path.as_path(), &files), address, confine).map_err(
            |trouble| match trouble {
                gdb::GdbError::Machine(error) => host(error),
                gdb::GdbError::Diagnosed(problem) => problem,
            },
        )?;
        (machine, recording, can_be_replayed) = (run.machine, run.recording, !run.changed);
        (run.outcome, None)
    } else {
        let features = if args.no_autopsy { Features::empty() } else { Features::REPLAY };
        args.sandbox.enter(machine.spec(), features, directories)?;
        timing.step("sandbox");
        let mut recorder: [&mut dyn Observer; 1] = [&mut recording];
        // The record is only read by an autopsy, and runs of several vCPUs are never replayed.
        let unread = args.no_autopsy || machine.spec().vcpus > 1;
        let observers = if unread { &mut [] } else { recorder.as_mut_slice() };
        let result = watch.run(&mut machine, &files, observers);
        // The trace is shown first, also of a run that failed.
        watch.finish()?;
        result.map_err(host)?
    };

    timing.step("run");
    if matches!(outcome.end, End::TimeLimit(_)) {
        stderr::limit_waits();
    }
    let output = copy.map(|copy| copy.bytes()).unwrap_or_default();
    let recording = (can_be_replayed && !args.no_autopsy).then_some(&recording);
    let ended =
        FinishedRun { outcome: &outcome, machine: &machine, files: &files, output: &output, recording };
    let (status, mut report) = evaluate(&config, &ended)?;
    report.stats = stats;
    timing.step("verdict");
    let core = core.map(|mut core| {
        core_file::write(&machine, Some(&outcome.end), report.before(), &mut core)?;
        core.persist()
    });
    // Dropped here to restore the terminal before the report is printed.
    drop(machine);
    timing.step("end of the machine");
    report.timing = timing.finish();
    if let Some(file) = report_file {
        file.persist_bytes(format!("{}\n", report.to_json()).as_bytes())?;
    }
    let measured = report.stats.is_some() || report.timing.is_some();
    match args.format {
        Format::Text => {
            report.eprint(&config);
            if let Some(stats) = &report.stats {
                stderr::print(format_args!("{stats}"));
            }
            if let Some(timing) = &report.timing {
                stderr::print(format_args!("{timing}"));
            }
        }
        Format::Json if status != Status::Success || measured => {
            stderr::print_line(format_args!("{}", report.to_json()));
        }
        Format::Json => {}
    }
    core.transpose()?;
    Ok(status)
}
