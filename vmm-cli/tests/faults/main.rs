//! Each system call of a run is made to fail, in turn, and the run has to end as it should.
//!
//! Each scenario runs once as it is, under ptrace(2), which lists its calls. Then it runs once for each call and each error that
//! the kernel documents for it. A run must end as before, or with an error that names the failure and with the status of its class.
//! It must not panic, die of a signal, hang, or leave a file.
//!
//! The tests make a sample of the faults. `cargo xtask faults` makes all, through these variables:
//!
//! | variable | meaning |
//! |---|---|
//! | `VMM_FAULTS` | number of faults, chosen at random; `all`; or `every`, which also has all repetitions of a call |
//! | `VMM_FAULTS_FILTER` | only faults whose names contain this, such as `hello/`, `KVM_RUN` or `/ENOMEM` |
//! | `VMM_FAULTS_SEED` | seed of the choice, 0 by default |
#![cfg(debug_assertions)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "../support/gdb_packet.rs"]
mod gdb_packet;

mod calls;
mod judge;
mod peer;
mod scenarios;
mod tables;
mod tracer;

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use judge::{Judgement, Outcome, error_name, judge};
use scenarios::{SCENARIOS, Scenario};
use tracer::{Fault, Traced, TracedCall, TracedEnd, trace};

const CLI: &str = env!("CARGO_BIN_EXE_vmm-cli");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Limit for one run. The longest takes a few seconds on an idle machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of faults without `VMM_FAULTS`.
const DEFAULT_SAMPLE: usize = 60;

/// Seed without `VMM_FAULTS_SEED`.
const DEFAULT_SEED: u64 = 0;

/// One run to make: a scenario and a fault.
struct Job {
    scenario: &'static Scenario,
    fault: Fault,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { thread, name, index, error } = &self.fault;
        write!(f, "{}/{name}#{index}@{thread}/{}", self.scenario.name, error_name(*error))
    }
}

/// Numbers of judgements.
#[derive(Default)]
struct Tally {
    faults: usize,
    tolerated: usize,
    reported: usize,
    not_reached: usize,
    wrong: usize,
}

impl Tally {
    fn add(&mut self, judgement: &Judgement) {
        self.faults += 1;
        match judgement {
            Judgement::Tolerated => self.tolerated += 1,
            Judgement::Reported => self.reported += 1,
            Judgement::NotReached => self.not_reached += 1,
            Judgement::Wrong(_) => self.wrong += 1,
        }
    }
}

/// Runs a scenario in a new directory.
fn run(scenario: &Scenario, fault: Option<&Fault>) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    fs::create_dir(&out).unwrap();
    for (name, text) in scenario.files {
        fs::write(out.join(name), text).unwrap();
    }
    let words = |words: &[&str]| -> Vec<String> {
        words.iter().map(|word| word.replace("{out}", out.to_str().unwrap())).collect()
    };
    for preparation in scenario.preparation {
        let output = Command::new(CLI).args(words(preparation)).current_dir(ROOT).output().unwrap();
        assert!(output.status.success(), "{preparation:?}: {output:?}");
    }
    let traced = Traced {
        program: Path::new(CLI),
        arguments: &words(scenario.arguments),
        directory: Path::new(ROOT),
        first_path: &scenario.first_path.replace("{out}", out.to_str().unwrap()),
        stdin: home.path().join("stdin"),
        stdout: home.path().join("stdout"),
        stderr: home.path().join("stderr"),
        time_limit: RUN_TIMEOUT,
    };
    fs::write(&traced.stdin, scenario.input).unwrap();
    let stop = AtomicBool::new(false);
    let end = thread::scope(|scope| {
        if !scenario.packets.is_empty() {
            scope.spawn(|| peer::talk(&out.join("gdb"), scenario.packets, &stop));
        }
        let end = trace(&traced, fault);
        stop.store(true, Ordering::Relaxed);
        end
    });
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    Outcome {
        end: end.unwrap(),
        stdout: text(&traced.stdout),
        stderr: text(&traced.stderr),
        files: fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect::<BTreeSet<_>>(),
    }
}

/// Runs all scenarios without a fault, once for all tests.
fn normal_runs() -> &'static [Outcome] {
    static RUNS: OnceLock<Vec<Outcome>> = OnceLock::new();
    let run = |scenario| {
        let outcome = run(scenario, None);
        let TracedEnd { status, calls, .. } = &outcome.end;
        assert!(status.is_some() && !calls.is_empty(), "{}: {status:?}, {}", scenario.name, outcome.stderr);
        outcome
    };
    RUNS.get_or_init(|| SCENARIOS.iter().map(run).collect())
}

/// Returns the faults of a run: each documented error of each call. Of a call that is repeated, only the first two, one in the
/// middle and the last, unless `every` is true.
fn faults(calls: &[TracedCall], every: bool) -> impl Iterator<Item = Fault> {
    let mut counts: HashMap<(usize, &str), usize> = HashMap::new();
    for call in calls {
        *counts.entry((call.thread, &call.name)).or_default() += 1;
    }
    let is_chosen = move |call: &&TracedCall| {
        let count = counts.get(&(call.thread, call.name.as_str())).copied().unwrap_or_default();
        every || call.index < 2 || call.index == count / 2 || call.index + 1 == count
    };
    calls.iter().filter(is_chosen).flat_map(|call| {
        call.errors.iter().map(|&error| Fault {
            thread: call.thread,
            name: call.name.clone(),
            index: call.index,
            error,
        })
    })
}

/// Makes faults on all CPUs. Returns the judgement of each, by scenario.
fn make_all(jobs: &[Job], normal: &HashMap<&str, &Outcome>) -> Vec<(&'static str, Judgement)> {
    let next = AtomicUsize::new(0);
    let judgements = Mutex::new(Vec::new());
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = run(job.scenario, Some(&job.fault));
            let judgement = judge(&outcome, normal[job.scenario.name], &job.fault, job.scenario);
            if let Judgement::Wrong(reason) = &judgement {
                println!("{job}: {reason}");
            }
            judgements.lock().unwrap().push((job.scenario.name, judgement));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    judgements.into_inner().unwrap()
}

fn print_row(name: &str, calls: usize, tally: &Tally) {
    let Tally { faults, tolerated, reported, not_reached, wrong } = tally;
    println!("{name:<16}{calls:>7}{faults:>8}{tolerated:>11}{reported:>10}{not_reached:>13}{wrong:>7}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn runs_with_failing_system_calls_end_as_they_should() {
    if !Path::new(CLI).exists() {
        println!("skipped: the program is not on this host");
        return;
    }
    let runs = normal_runs();
    let (choice, filter) = (env::var("VMM_FAULTS"), env::var("VMM_FAULTS_FILTER"));
    let every = choice.as_deref() == Ok("every");
    let mut jobs = Vec::new();
    for (scenario, outcome) in SCENARIOS.iter().zip(runs) {
        jobs.extend(faults(&outcome.end.calls, every).map(|fault| Job { scenario, fault }));
    }
    if let Ok(filter) = &filter {
        jobs.retain(|job| job.to_string().contains(filter.as_str()));
    }
    println!("{} faults", jobs.len());
    if !matches!(choice.as_deref(), Ok("all" | "every")) {
        let sample = choice.map_or(DEFAULT_SAMPLE, |number| number.parse().unwrap());
        // The same sample each time: what a change breaks is seen with that change. `cargo xtask faults` makes all.
        let seed = env::var("VMM_FAULTS_SEED").map_or(DEFAULT_SEED, |seed| seed.parse().unwrap());
        println!("{sample} of {} faults, VMM_FAULTS_SEED={seed}", jobs.len());
        fastrand::Rng::with_seed(seed).shuffle(&mut jobs);
        jobs.truncate(sample);
    }
    let normal = SCENARIOS.iter().map(|scenario| scenario.name).zip(runs).collect();
    let judgements = make_all(&jobs, &normal);

    println!("run              calls  faults  tolerated  reported  not reached  wrong");
    let mut all = Tally::default();
    for (scenario, outcome) in SCENARIOS.iter().zip(runs) {
        let mut tally = Tally::default();
        for (_, judgement) in judgements.iter().filter(|(name, _)| *name == scenario.name) {
            tally.add(judgement);
            all.add(judgement);
        }
        print_row(scenario.name, outcome.end.calls.len(), &tally);
    }
    print_row("all", runs.iter().map(|run| run.end.calls.len()).sum(), &all);
    assert_eq!(all.wrong, 0, "runs that ended wrongly");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn each_entry_of_the_sandbox_is_used_by_a_run() {
    if !Path::new(CLI).exists() {
        println!("skipped: the program is not on this host");
        return;
    }
    let differences = tables::differences(normal_runs());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
