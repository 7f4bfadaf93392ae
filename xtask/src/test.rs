//! `cargo xtask test`: runs all tests on all available hosts.
//!
//! There are three parts: tests that need no KVM; tests that need KVM and all configurations, on this machine's KVM; and the
//! same on the nested host. A test that no host could run is a failure.

mod config;
mod gdb;
mod kvm_quirks;
mod libtest;
mod outcome;
mod programs;
mod remote;
mod report;
mod selection;
mod suite;
mod template;

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::guests;
use crate::interrupt;
use crate::nested::{MissingParts, NestedHost, NestedJob};
use crate::progress::Phase;
use crate::run::kvm_is_usable;
use crate::workspace::Workspace;
use config::ConfigTest;
pub(crate) use outcome::{ResultCounts, TestResult, Verdict};
use outcome::{TestHost, TestKind};
use programs::ProgramTests;
use remote::HostTests;
pub(crate) use remote::serve;
pub(crate) use selection::TestOptions;
use selection::{HostChoice, Selection};
use template::CargoStep;

/// Guest with its configuration in an ELF note.
const ELF_NOTE_GUEST: &str = "guests/build/elf-note-config.elf";
/// Maximum number of nested hosts at a time.
const MAX_NESTED_HOSTS: usize = 2;
/// Available memory from which on two nested hosts run, in bytes. Each needs about 3 GiB for the test programs.
const MEMORY_FOR_TWO_HOSTS: u64 = 10 << 30;
/// Limit for all tests on the nested host.
const NESTED_TIMEOUT: Duration = Duration::from_secs(5400);

/// Runs the selected tests and prints the report, including earlier `results`. Returns the exit status.
///
/// # Errors
///
/// Fails if a filter selects no test, or if the nested host is required but not installed. Other errors are reported as a
/// failed result.
pub(crate) fn run(workspace: &Workspace, options: &TestOptions, mut results: Vec<TestResult>) -> Result<u8> {
    interrupt::restore_for_children();
    let nested = NestedHost::find()?;
    if let (HostChoice::Nested, Err(missing)) = (options.host, &nested) {
        return Err(Failure::new(missing.to_string()).with_status(106));
    }
    let mut selection = Selection::new(&options.filters);
    let ran = build_and_run(workspace, options, nested.as_ref(), &mut selection, &mut results);
    match (ran, selection.unused_filter()) {
        (Ok(()), Some(filter)) => return Err(Failure::new(format!("no test matches `{filter}`"))),
        (Ok(()), None) => {}
        (Err(failure), _) => {
            let verdict = Verdict::Failed(failure.to_string());
            results.push(TestResult::from_check("build", verdict, "cargo test --workspace --no-run"));
        }
    }
    print!("{}", report::report(&results));
    Ok(u8::from(ResultCounts::from_results(&results).failed > 0))
}

/// Builds and runs the selected tests, unless a filter selects none.
fn build_and_run(
    workspace: &Workspace,
    options: &TestOptions,
    nested: std::result::Result<&NestedHost, &MissingParts>,
    selection: &mut Selection<'_>,
    results: &mut Vec<TestResult>,
) -> Result<()> {
    let tests = Tests::build(workspace, options, selection)?;
    if selection.unused_filter().is_some() && !selection.may_select_doc_tests() {
        return Ok(());
    }
    tests.run(workspace, nested, selection, results)
}

/// Tests to run.
struct Tests {
    hosts: HostChoice,
    /// Rust tests that need no KVM.
    plain: Vec<ProgramTests>,
    /// Tests that run on each host.
    on_hosts: HostTests,
    /// Steps of the template kernel, which run on each host.
    template: Vec<&'static CargoStep>,
    /// Configurations whose guests cannot be built, each with the reason.
    left_out: Vec<(ConfigTest, String)>,
}

impl Tests {
    /// Builds guests, vmm-cli and test programs, and selects the tests.
    fn build(workspace: &Workspace, options: &TestOptions, selection: &mut Selection<'_>) -> Result<Self> {
        let phase = Phase::start("build");
        let built = guests::build(workspace)?;
        let cli = workspace.build_cli()?;
        let programs = if selection.may_select_rust_tests() { workspace.build_tests()? } else { Vec::new() };
        phase.end(format_args!("{} guests, {} test programs", built.new + built.fresh, programs.len()));

        let (mut plain, mut with_kvm) = (Vec::new(), Vec::new());
        for program in &programs {
            if options.host.includes(TestHost::Here) {
                plain.push(ProgramTests::list(program, false, selection)?);
            }
            with_kvm.push(ProgramTests::list(program, true, selection)?);
        }
        plain.retain(|tests| !tests.is_empty());
        with_kvm.retain(|tests| !tests.is_empty());

        let (mut configs, mut left_out) = (Vec::new(), Vec::new());
        let elf_note = ConfigTest::from_elf_note(workspace.path(ELF_NOTE_GUEST));
        let files = workspace.configs()?;
        for test in files.iter().map(|path| ConfigTest::read(path)).chain([Ok(elf_note)]) {
            let test = test?;
            if !selection.selects_config(workspace, &test) {
                continue;
            }
            match built.left_out.iter().find(|(file, _)| *file == test.guest) {
                Some((_, reason)) => left_out.push((test, reason.clone())),
                None => configs.push(test),
            }
        }
        let root = workspace.root().to_owned();
        let on_hosts = HostTests { host: TestHost::Here, root, cli, programs: with_kvm, configs };
        Ok(Self { hosts: options.host, plain, on_hosts, template: template::select(selection), left_out })
    }

    /// Runs all tests and adds their results.
    fn run(
        mut self,
        workspace: &Workspace,
        nested: std::result::Result<&NestedHost, &MissingParts>,
        selection: &mut Selection<'_>,
        results: &mut Vec<TestResult>,
    ) -> Result<()> {
        let has_doc_tests = self.hosts.includes(TestHost::Here) && selection.may_select_doc_tests();
        if has_doc_tests || !self.plain.is_empty() {
            let phase = Phase::start("tests without KVM");
            let mut plain: Vec<_> = self.plain.iter().flat_map(|tests| tests.run(TestHost::Here)).collect();
            if has_doc_tests {
                plain.extend(programs::run_doc_tests(workspace, selection)?);
            }
            phase.end(format_args!("{}", ResultCounts::from_results(&plain)));
            results.extend(plain);
        }
        let mut on_hosts = Vec::new();
        for host in self.hosts.hosts() {
            let phase = Phase::start(host.name());
            self.on_hosts.host = host;
            let refusal = match host {
                TestHost::Here => kvm_is_usable().err(),
                TestHost::Nested => nested.err().map(ToString::to_string),
            };
            let left_out = self.left_out.iter();
            results.extend(left_out.map(|(test, reason)| self.on_hosts.skip_config(test, reason)));
            let mut found = Vec::new();
            match (&refusal, host, nested) {
                (None, TestHost::Nested, Ok(nested)) if !self.on_hosts.is_empty() => {
                    found.extend(on_nested_hosts(workspace, nested, &self.on_hosts)?);
                }
                (None, TestHost::Nested, _) => {}
                (None, TestHost::Here, _) => self.on_hosts.run(|result| found.push(result)),
                (Some(reason), ..) => found.extend(self.on_hosts.skip(reason)),
            }
            let cli = &self.on_hosts.cli;
            found.extend(template::run(workspace, cli, (&self.template, host), refusal.as_deref())?);
            if let (TestHost::Nested, HostChoice::All) = (host, self.hosts) {
                fail_if_nowhere(&on_hosts, &mut found);
            }
            phase.end(format_args!("{}", ResultCounts::from_results(&found)));
            on_hosts.extend(found);
        }
        results.extend(on_hosts);
        Ok(())
    }
}

/// Runs tests on nested hosts, at most [`MAX_NESTED_HOSTS`] at a time: each of them uses one CPU of this machine.
fn on_nested_hosts(workspace: &Workspace, host: &NestedHost, tests: &HostTests) -> Result<Vec<TestResult>> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let hosts = if memory_available() < MEMORY_FOR_TWO_HOSTS { 1 } else { cpus.min(MAX_NESTED_HOSTS) };
    let parts = tests.split(hosts);
    let results = thread::scope(|scope| {
        let running: Vec<_> =
            parts.iter().map(|part| scope.spawn(|| on_nested_host(workspace, host, part))).collect();
        running.into_iter().map(|boot| boot.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let results: Result<Vec<_>> = results;
    Ok(results?.into_iter().flatten().collect())
}

/// Returns the memory that programs can use without swapping, in bytes (`MemAvailable`, proc_meminfo(5)); 0 if unknown.
fn memory_available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or_default() << 10
}

/// Runs tests in one boot of the nested host.
fn on_nested_host(workspace: &Workspace, host: &NestedHost, tests: &HostTests) -> Result<Vec<TestResult>> {
    let failure =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot prepare the nested host: {error}"));
    let xtask = std::env::current_exe().map_err(|error| failure(&error))?;
    let mut programs = vec![xtask.clone(), tests.cli.clone()];
    programs.extend(tests.programs().map(|program| program.program.clone()));
    let mut files = vec![workspace.path("configs"), workspace.path("guests/build")];
    files.extend(tests.programs().map(|program| program.package.join("tests")));
    if let Some(gdb) = gdb::find() {
        programs.push(gdb.program);
        files.extend(gdb.files);
    }
    let job = NestedJob {
        command: vec![xtask.to_string_lossy().into_owned(), "remote".to_owned(), "tests".to_owned()],
        directory: workspace.root().to_owned(),
        programs,
        files,
        input: serde_json::to_vec(tests).map_err(|error| failure(&error))?,
        time_limit: NESTED_TIMEOUT,
        verbose: false,
    };
    let mut output = Vec::new();
    let ended = host.run(&job, |bytes| output.extend_from_slice(bytes));
    let mut results = Vec::new();
    let mut rest = String::new();
    for line in String::from_utf8_lossy(&output).lines() {
        match remote::parse(line) {
            Ok(result) => results.push(result),
            Err(_) => rest += &format!("{line}\n"),
        }
    }
    // Results from before a failure of the nested host are kept, and the failure itself is one more.
    let reason = match ended {
        Ok(0) => return Ok(results),
        Ok(status) => format!("xtask there ended with status {status}\n{rest}"),
        Err(failure) => failure.to_string(),
    };
    let verdict = Verdict::Failed(reason);
    results.push(TestResult {
        kind: TestKind::Test,
        host: TestHost::Nested,
        name: "xtask remote tests".to_owned(),
        verdict,
        rerun: "cargo xtask test --host nested".to_owned(),
    });
    Ok(results)
}

/// Turns tests that were skipped on both hosts into failures, unless all tests on the nested host were skipped.
///
/// The nested host supports everything, so a test that ran on no host is a mistake.
fn fail_if_nowhere(here: &[TestResult], nested: &mut [TestResult]) {
    let ran = |result: &TestResult| !matches!(result.verdict, Verdict::Skipped(_));
    if !nested.iter().any(ran) {
        return;
    }
    for result in nested {
        let twin = here.iter().find(|other| other.kind == result.kind && other.name == result.name);
        if let (Verdict::Skipped(reason), false) = (&result.verdict, twin.is_some_and(ran)) {
            result.verdict = Verdict::Failed(format!("it ran on no host; this one says: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_split_without_loss() {
        let config = |number: usize| ConfigTest::from_elf_note(format!("{number}.elf").into());
        let tests = HostTests {
            host: TestHost::Nested,
            root: "/".into(),
            cli: "vmm-cli".into(),
            programs: Vec::new(),
            configs: (0..5).map(config).collect(),
        };
        let parts = tests.split(2);
        let names: Vec<Vec<_>> =
            parts.iter().map(|part| part.configs.iter().map(|test| test.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["0.elf", "2.elf", "4.elf"], vec!["1.elf", "3.elf"]]);
        assert_eq!(tests.split(9).len(), 5);
    }

    #[test]
    fn a_test_that_ran_on_no_host_is_a_failure() {
        let result = |host, name: &str, verdict| TestResult {
            kind: TestKind::Config,
            host,
            name: name.into(),
            verdict,
            rerun: String::new(),
        };
        let skipped = || Verdict::Skipped("no".to_owned());
        let here = [result(TestHost::Here, "a", skipped()), result(TestHost::Here, "b", Verdict::Passed)];
        let mut nested = [
            result(TestHost::Nested, "a", skipped()),
            result(TestHost::Nested, "b", skipped()),
            result(TestHost::Nested, "c", Verdict::Passed),
        ];
        fail_if_nowhere(&here, &mut nested);
        let [a, b, c] = nested.map(|result| result.verdict);
        assert_eq!(a, Verdict::Failed("it ran on no host; this one says: no".to_owned()));
        assert_eq!((b, c), (skipped(), Verdict::Passed));

        let mut absent = [result(TestHost::Nested, "a", skipped())];
        fail_if_nowhere(&here, &mut absent);
        assert_eq!(absent.map(|result| result.verdict), [skipped()]);
    }
}
