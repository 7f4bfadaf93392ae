//! Commands of vmm-cli that `stress` kills, their machines, and the files that they write.

use std::fs;
use std::path::{Path, PathBuf};

use super::output::{Format, Output};
use super::signal::StopSignal;
use crate::failure::{FileContext, Result};

/// Number of cases of the suite that [`prepare`] makes.
pub(super) const CASES: usize = 40;
/// Number of these that continue from one boot snapshot, and of those with a machine each that sleeps between interrupts.
const COPIES: usize = 24;
const SLEEPERS: usize = 4;

/// A command that is killed.
#[derive(Debug)]
pub(super) struct Victim {
    /// Name for options and the report.
    pub(super) name: &'static str,
    /// Arguments of vmm-cli.
    pub(super) arguments: &'static [&'static str],
    /// Files that it writes in its working directory. An earlier file of that name is replaced.
    pub(super) outputs: &'static [Output],
    /// True if it ends by itself.
    pub(super) ends: bool,
    /// Keys that end it.
    pub(super) keys: StopSignal,
    /// True if a gdb connects to it.
    pub(super) has_gdb: bool,
}

/// All commands, in the order in which they are killed.
static VICTIMS: [Victim; 5] = [
    Victim {
        name: "run",
        arguments: &["run", "forever.toml"],
        outputs: &[],
        ends: false,
        keys: StopSignal::CtrlAX,
        has_gdb: false,
    },
    Victim {
        name: "trace",
        arguments: &[
            "run",
            "forever.toml",
            "--trace-out=trace.json",
            "--report=report.json",
            "--core=core.elf",
            "--force",
        ],
        outputs: &[
            Output { name: "trace.json", format: Format::Trace },
            Output { name: "report.json", format: Format::Report },
            Output { name: "core.elf", format: Format::Core },
        ],
        ends: false,
        keys: StopSignal::CtrlAX,
        has_gdb: false,
    },
    Victim {
        name: "gdb",
        arguments: &["run", "forever.toml", "--gdb"],
        outputs: &[],
        ends: false,
        keys: StopSignal::CtrlC,
        has_gdb: true,
    },
    Victim {
        name: "snapshot",
        arguments: &["snapshot", "forever.toml", "--after=200ms", "--output=machine.snapshot", "--force"],
        outputs: &[Output { name: "machine.snapshot", format: Format::Snapshot }],
        ends: true,
        keys: StopSignal::CtrlC,
        has_gdb: false,
    },
    Victim {
        name: "test",
        arguments: &["test", "suite", "--junit=report.xml", "--force"],
        outputs: &[Output { name: "report.xml", format: Format::Junit }],
        ends: true,
        keys: StopSignal::CtrlC,
        has_gdb: false,
    },
];

impl Victim {
    /// Returns all commands, or the one of that name.
    pub(super) fn named(name: Option<&str>) -> Vec<&'static Self> {
        VICTIMS.iter().filter(|victim| name.is_none_or(|name| victim.name == name)).collect()
    }

    /// Returns the names of all commands.
    pub(super) fn names() -> [&'static str; VICTIMS.len()] {
        VICTIMS.each_ref().map(|victim| victim.name)
    }

    /// Returns the ways to stop it, in the order in which they are used.
    pub(super) fn stops(&self) -> Vec<StopSignal> {
        StopSignal::ALL.into_iter().filter(|stop| stop.keys().is_none() || *stop == self.keys).collect()
    }
}

/// Writes the machines into a new directory, and a disk. `guests` has the built guests.
///
/// `forever.toml` has two vCPUs, timers, the terminal as its serial console, and a disk whose writes go to a temporary file.
/// `suite` has [`CASES`] cases for workers of all kinds: copies of a boot snapshot, machines with interrupts, single machines.
pub(super) fn prepare(directory: &Path, guests: &Path) -> Result<()> {
    let suite = directory.join("suite");
    fs::create_dir_all(&suite).while_doing("create", &suite)?;
    let apic = "[[paging.map]]\ngva = 0xfee0_0000\ngpa = 0xfee0_0000\nsize = \"4KiB\"\n";
    let machine = |guest: &str| {
        format!("mode = \"long\"\nmemory.size = \"2MiB\"\nguest.elf = {:?}\n", guests.join(guest))
    };
    let smp =
        |guest: &str| format!("vcpus = 2\ninterrupts = \"pc\"\ncpuid = \"host\"\n{}{apic}", machine(guest));
    let expect = |keys: &str| format!("[expect]\n{keys}\n");
    let copy = |number: usize| {
        let test = number % 4;
        format!("[[test.case]]\nname = \"copy-{number}\"\nregisters = {{ rdi = {test} }}\n")
    };
    let sizes = |count: usize| (0..count).map(|n| format!("\"{}KiB\"", 2048 + 4 * n)).collect::<Vec<_>>();
    let matrix = |count: usize| format!("[matrix]\nmemory.size = [{}]\n", sizes(count).join(", "));
    let exit = expect("end = \"exit\"\nexit-code = 0");
    let files: [(PathBuf, String); 5] = [
        (directory.join("disk.img"), "\0".repeat(4096)),
        (
            directory.join("forever.toml"),
            smp("timer-forever.elf")
                + "[[devices.virtio]]\ntype = \"block\"\nfile = \"disk.img\"\noverlay = true\n",
        ),
        (
            suite.join("copies.toml"),
            machine("cases.elf")
                + "[test]\nsnapshot-at = \"run_test\"\n"
                + &(0..COPIES).map(copy).collect::<String>()
                + &exit,
        ),
        (suite.join("sleepers.toml"), smp("timer-smp.elf") + &exit + &matrix(SLEEPERS)),
        (
            suite.join("singles.toml"),
            machine("hello-long.elf")
                + &expect("output-contains = [\"Hello\"]")
                + &matrix(CASES - COPIES - SLEEPERS),
        ),
    ];
    for (path, text) in files {
        fs::write(&path, text).while_doing("write", &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_stop_but_one_kind_of_keys_are_used() {
        for victim in Victim::named(None) {
            assert_eq!(victim.stops().len(), StopSignal::ALL.len() - 1, "{}", victim.name);
            assert!(victim.stops().contains(&victim.keys));
            assert_eq!(Victim::named(Some(victim.name)).len(), 1);
        }
        assert!(Victim::named(Some("none")).is_empty());
    }

    #[test]
    fn the_machines_are_toml() {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path(), Path::new("/guests")).unwrap();
        let mut cases = 0;
        for name in ["forever", "suite/copies", "suite/sleepers", "suite/singles"] {
            let text = fs::read_to_string(directory.path().join(format!("{name}.toml"))).unwrap();
            let machine: toml::Table = text.parse().unwrap();
            let list = |table: &str, key: &str| machine.get(table)?.get(key)?.as_array().map(Vec::len);
            let matrix =
                machine.get("matrix").and_then(|matrix| matrix.get("memory")?.get("size")?.as_array());
            cases += list("test", "case").or(matrix.map(Vec::len)).unwrap_or(0);
        }
        assert_eq!(cases, CASES);
    }
}
