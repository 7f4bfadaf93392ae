//! `vmm-cli run`: a configuration, a machine, its run, its verdict.

use std::io::Write;

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;
use crate::stderr;
use kvm_sys_wrap::install_termination_handlers;
use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::observer::Observer;
use vmm_core::record::Recording;

use crate::args::{Format, RunArgs};
use crate::core_file;
use crate::gdb;
use crate::new_file::NewFile;
use crate::output_file;
use crate::prepare::Prepared;
use crate::profile::RunProfile;
use crate::snapshot_file;
use crate::terminal::{self, OutputCopy, StdoutOutput};
use crate::trace::Tracer;
use crate::verdict::{FinishedRun, evaluate};

pub(crate) fn run(options: &RunArgs) -> Result<Status, Diagnostics> {
    let mut timing = RunProfile::new(options.timing);
    let config = Config::load(&options.config, &options.overrides.to_overrides())?;
    timing.step("configuration");
    let Prepared { machine: spec, layout, files, notes, .. } = Prepared::new(&config)?;
    if options.format == Format::Text {
        Diagnostics(notes).eprint();
    }
    timing.step("guest's files and layout");
    // Opened before the run: a report that cannot be written is better known before than after it.
    let report = options.report.as_deref();
    let report_file =
        report.map(|path| output_file::create(path, "the report", options.force)).transpose()?;
    let core = options
        .core
        .as_deref()
        .map(|path| NewFile::create(path, "the core file", options.force))
        .transpose()?;
    let json = options.format == Format::Json;
    let watch = Tracer::new(&options.trace, &options.config, json, options.force)?;

    let copy = config.expect.as_ref().filter(|expect| expect.checks_output()).map(|_| OutputCopy::default());
    let host = |error: Error| Diagnostics::from(host_error(&config, &error));
    // Before the terminal becomes raw: from then on no signal may end us without a way back.
    install_termination_handlers().map_err(|error| host(error.into()))?;
    let console = terminal::console(StdoutOutput::new(copy.clone()), &spec);
    timing.step("console and signals");
    let kvm = timing.open_kvm().unwrap_or_else(|| watch.open_kvm()).map_err(|error| host(error.into()))?;
    let again = options.gdb.as_ref().map(|_| spec.clone());
    let machine = match &options.from {
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
    let mut recording = Recording::new();
    let mut can_be_replayed = true;
    let (outcome, stats) = if let (Some(address), Some(spec)) = (&options.gdb, again) {
        let build = || Machine::build(&kvm, spec.clone(), &files, Console::to(std::io::sink()));
        let run =
            gdb::run(machine, build, (&config.guest.path, &files), address).map_err(
                |trouble| match trouble {
                    gdb::GdbError::Machine(error) => host(error),
                    gdb::GdbError::Address(problem) => problem,
                },
            )?;
        (machine, recording, can_be_replayed) = (run.machine, run.recording, !run.changed);
        (run.outcome, None)
    } else {
        let mut recorder: [&mut dyn Observer; 1] = [&mut recording];
        // Without an autopsy nobody reads the record, and a run of several vCPUs is never repeated.
        let unread = options.no_autopsy || machine.spec().vcpus > 1;
        let observers = if unread { &mut [] } else { recorder.as_mut_slice() };
        let result = watch.run(&mut machine, &files, observers);
        // What was traced is shown first, even of a run that failed.
        watch.finish()?;
        result.map_err(host)?
    };

    timing.step("run");
    let output = copy.map(|copy| copy.bytes()).unwrap_or_default();
    let recording = (can_be_replayed && !options.no_autopsy).then_some(&recording);
    let ended =
        FinishedRun { outcome: &outcome, machine: &machine, files: &files, output: &output, recording };
    let (status, mut report) = evaluate(&config, &ended);
    report.stats = stats;
    timing.step("verdict");
    let core = core.map(|mut core| {
        core_file::write(&machine, Some(&outcome.end), report.before(), &mut core)?;
        core.keep();
        Ok::<(), Diagnostic>(())
    });
    // Gives the terminal back too: the report is for a person.
    drop(machine);
    timing.step("end of the machine");
    report.timing = timing.finish();
    if let Some(mut file) = report_file {
        let written = writeln!(file, "{}", report.to_json());
        written
            .map_err(|error| Diagnostic::error(Status::Host, format!("cannot write the report: {error}")))?;
    }
    let measured = report.stats.is_some() || report.timing.is_some();
    match options.format {
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

/// An error of the machine's, with its cause in the message, at the line that led to it where there is one.
pub(crate) fn host_error(config: &Config, error: &Error) -> Diagnostic {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    let (status, key) = match error.blame() {
        Blame::Configuration => (Status::Configuration, Some("guest")),
        Blame::HostLacks => (Status::Refused, Some("mode")),
        Blame::Host => (Status::Host, None),
        Blame::Bug => (Status::Bug, None),
    };
    let location = key.map_or(Location::Nowhere, |key| config.location(key));
    Diagnostic::error(status, message).at(location).with_help(crate::help::for_machine(error))
}
