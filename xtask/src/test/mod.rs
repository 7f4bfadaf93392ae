//! `cargo xtask test`: all tests, on all hosts that are here.
//!
//! Three parts: the workspace's own tests, which need no KVM; then, on this machine's KVM, the tests that need one
//! and every configuration; then the same on the nested host. A configuration that no host could run is a failure.

mod battery;
mod config;
mod gdb;
mod hosts;
mod libtest;
mod record;
mod suite;
mod table;
mod template;

use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::guests;
use crate::nested::{Job, NestedHost};
use crate::process::capture;
use crate::progress::Part;
use crate::run::kvm_is_usable;
use crate::workspace::Workspace;
use battery::Battery;
pub(crate) use battery::serve;
use config::ConfigTest;
use record::Place;
pub(crate) use record::{Counts, Record, Subject, Verdict};

/// Tests that need no KVM take seconds; this is for a slow machine that builds their examples.
const TEST_LIMIT: Duration = Duration::from_secs(900);
/// The guest that carries its configuration in itself.
const NOTED: &str = "guests/build/noted.elf";
/// The limit for all that runs on the nested host.
const NESTED_LIMIT: Duration = Duration::from_secs(1200);

/// Runs all tests and prints the report; `records` holds what was found out before. Returns the exit status.
pub(crate) fn run(workspace: &Workspace, mut records: Vec<Record>) -> u8 {
    if let Err(failure) = all_parts(workspace, &mut records) {
        records.push(Subject::Source.record("build", Verdict::Failed(failure.to_string())));
    }
    print!("{}", table::report(&records));
    u8::from(Counts::of(&records).failed > 0)
}

fn all_parts(workspace: &Workspace, records: &mut Vec<Record>) -> Result<()> {
    let part = Part::start("build");
    let built = guests::build(workspace)?;
    let cli = workspace.build_cli()?;
    let programs = workspace.build_tests()?;
    part.end(format_args!("{} guests, {} test programs", built.new + built.fresh, programs.len()));

    let part = Part::start("tests without KVM");
    let found = cargo_test(workspace)?;
    part.end(format_args!("{}", Counts::of(&found)));
    records.extend(found);

    // Programs without such tests would only cost time.
    let mut with_kvm_tests = Vec::new();
    for program in programs {
        if !battery::kvm_tests(&program.program)?.is_empty() {
            with_kvm_tests.push(program);
        }
    }
    let mut configs = Vec::new();
    let noted = ConfigTest::inside(workspace.path(NOTED));
    let files = workspace.configs()?;
    for test in files.iter().map(|path| ConfigTest::read(path)).chain([Ok(noted)]) {
        let test = test?;
        let Some((_, reason)) = built.left_out.iter().find(|(file, _)| *file == test.guest) else {
            configs.push(test);
            continue;
        };
        records.extend([Place::Here, Place::Nested].map(|place| {
            let (name, verdict) = (test.name.clone(), Verdict::Skipped(reason.clone()));
            Record { subject: Subject::Config, place, name, verdict }
        }));
    }
    let mut battery = Battery { cli, place: Place::Here, programs: with_kvm_tests, configs };

    let part = Part::start("this host");
    let mut here = Vec::new();
    let refusal = kvm_is_usable().err();
    match &refusal {
        None => battery.run(|record| here.push(record)),
        Some(reason) => here = battery.skip(reason)?,
    }
    here.extend(template::run(workspace, &battery.cli, Place::Here, refusal.as_deref())?);
    part.end(format_args!("{}", Counts::of(&here)));

    let part = Part::start("nested host");
    battery.place = Place::Nested;
    let (mut nested, refusal) = match NestedHost::find()? {
        Ok(host) => (on_nested_host(workspace, &host, &battery)?, None),
        Err(missing) => (battery.skip(&missing.to_string())?, Some(missing.to_string())),
    };
    nested.extend(template::run(workspace, &battery.cli, Place::Nested, refusal.as_deref())?);
    fail_if_nowhere(&here, &mut nested);
    part.end(format_args!("{}", Counts::of(&nested)));
    records.extend(here);
    records.extend(nested);
    Ok(())
}

/// The tests that `cargo test` runs: unit, golden, property and UI tests, and the documentation's examples.
fn cargo_test(workspace: &Workspace) -> Result<Vec<Record>> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    let captured = capture(&mut cargo, None, TEST_LIMIT);
    let captured = captured.map_err(|error| Failure::new(format!("cannot run cargo test: {error}")))?;
    let verdicts = libtest::verdicts(&captured.stdout).into_iter();
    let mut records: Vec<_> = verdicts.map(|(name, verdict)| Subject::Test.record(name, verdict)).collect();
    // Without a failed test it is cargo itself, or a test program that died, that says no.
    if Counts::of(&records).failed == 0 && !captured.status.is_some_and(|status| status.success()) {
        records.push(Subject::Test.record("cargo test", Verdict::Failed(captured.stderr)));
    }
    Ok(records)
}

/// Runs a battery in one boot.
fn on_nested_host(workspace: &Workspace, host: &NestedHost, battery: &Battery) -> Result<Vec<Record>> {
    let trouble =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot prepare the nested host: {error}"));
    let xtask = std::env::current_exe().map_err(|error| trouble(&error))?;
    let mut programs = vec![xtask.clone(), battery.cli.clone()];
    programs.extend(battery.programs.iter().map(|test| test.program.clone()));
    let mut files = vec![workspace.path("configs"), workspace.path("guests/build")];
    files.extend(battery.programs.iter().map(|test| test.package.join("tests")));
    if let Some(gdb) = gdb::find() {
        programs.push(gdb.program);
        files.extend(gdb.files);
    }
    let job = Job {
        command: vec![xtask.to_string_lossy().into_owned(), "battery".to_owned()],
        directory: workspace.root().to_owned(),
        programs,
        files,
        input: serde_json::to_vec(battery).map_err(|error| trouble(&error))?,
        time_limit: NESTED_LIMIT,
        verbose: false,
    };
    let mut output = Vec::new();
    let ended = host.run(&job, |bytes| output.extend_from_slice(bytes));
    let mut records = Vec::new();
    let mut rest = String::new();
    for line in String::from_utf8_lossy(&output).lines() {
        match battery::parse(line) {
            Ok(record) => records.push(record),
            Err(_) => rest += &format!("{line}\n"),
        }
    }
    // What was found out before the nested host failed still counts; that it failed counts too.
    let reason = match ended {
        Ok(0) => return Ok(records),
        Ok(status) => format!("xtask there ended with status {status}\n{rest}"),
        Err(failure) => failure.to_string(),
    };
    let verdict = Verdict::Failed(reason);
    records.push(Record {
        subject: Subject::Test,
        place: Place::Nested,
        name: "battery".to_owned(),
        verdict,
    });
    Ok(records)
}

/// A test that each host refused has run nowhere, so nothing is known about it. That is a failure where the nested
/// host is here: it is the one that ought to run everything.
fn fail_if_nowhere(here: &[Record], nested: &mut [Record]) {
    let ran = |record: &Record| !matches!(record.verdict, Verdict::Skipped(_));
    if !nested.iter().any(ran) {
        return;
    }
    for record in nested {
        let twin = here.iter().find(|other| other.subject == record.subject && other.name == record.name);
        if let (Verdict::Skipped(reason), false) = (&record.verdict, twin.is_some_and(ran)) {
            record.verdict = Verdict::Failed(format!("it ran on no host; this one says: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_nowhere_has_failed() {
        let record = |place, name: &str, verdict| Record {
            subject: Subject::Config,
            place,
            name: name.into(),
            verdict,
        };
        let skipped = || Verdict::Skipped("no".to_owned());
        let here = [record(Place::Here, "a", skipped()), record(Place::Here, "b", Verdict::Passed)];
        let mut nested = [
            record(Place::Nested, "a", skipped()),
            record(Place::Nested, "b", skipped()),
            record(Place::Nested, "c", Verdict::Passed),
        ];
        fail_if_nowhere(&here, &mut nested);
        let [a, b, c] = nested.map(|record| record.verdict);
        assert_eq!(a, Verdict::Failed("it ran on no host; this one says: no".to_owned()));
        assert_eq!((b, c), (skipped(), Verdict::Passed));

        let mut absent = [record(Place::Nested, "a", skipped())];
        fail_if_nowhere(&here, &mut absent);
        assert_eq!(absent.map(|record| record.verdict), [skipped()]);
    }
}
