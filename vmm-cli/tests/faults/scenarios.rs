//! The runs whose system calls are made to fail.

/// Run of vmm-cli. In its arguments and files, `{out}` stands for a directory of its own, and the current directory is the workspace.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static [&'static str],
    /// First path that vmm-cli itself names.
    pub(crate) first_path: &'static str,
    /// Commands of vmm-cli that make files which the run needs.
    pub(crate) preparation: &'static [&'static [&'static str]],
    /// Files that the run needs: name in the directory, and text.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// Text that standard input has.
    pub(crate) input: &'static str,
    /// Packets that a debugger sends to the socket `{out}/gdb`; none without a debugger.
    pub(crate) packets: &'static [&'static str],
    /// True if the machine has a disk, whose errors the guest sees.
    pub(crate) has_disk: bool,
    /// True if standard output has no times, and must stay equal where a failure changes nothing.
    pub(crate) has_stable_output: bool,
}

impl Scenario {
    const fn new(name: &'static str, first_path: &'static str, arguments: &'static [&'static str]) -> Self {
        Self {
            name,
            arguments,
            first_path,
            preparation: &[],
            files: &[],
            input: "",
            packets: &[],
            has_disk: false,
            has_stable_output: true,
        }
    }

    const fn with_preparation(self, preparation: &'static [&'static [&'static str]]) -> Self {
        Self { preparation, ..self }
    }

    const fn with_files(self, files: &'static [(&'static str, &'static str)]) -> Self {
        Self { files, ..self }
    }

    const fn with_input(self, input: &'static str) -> Self {
        Self { input, ..self }
    }

    const fn with_packets(self, packets: &'static [&'static str]) -> Self {
        Self { packets, ..self }
    }

    const fn with_disk(self) -> Self {
        Self { has_disk: true, ..self }
    }

    const fn with_times_in_output(self) -> Self {
        Self { has_stable_output: false, ..self }
    }
}

const CRASH: &str = "configs/crash/jump-to-zero.toml";

/// Machines with a disk that is written to.
const DISK: &[(&str, &str)] = &[
    ("virtio.img", include_str!("../../../configs/virtio.img")),
    (
        "disk.toml",
        concat!(
            "mode = \"long\"\nmemory.size = \"2MiB\"\nregisters.rdi = 1\nguest.elf = \"",
            env!("CARGO_MANIFEST_DIR"),
            "/../guests/build/virtio.elf\"\n[[devices.virtio]]\ntype = \"block\"\nfile = \"virtio.img\"\n"
        ),
    ),
    (
        "crash.toml",
        concat!(
            "mode = \"long\"\nmemory.size = \"2MiB\"\nguest.elf = \"",
            env!("CARGO_MANIFEST_DIR"),
            "/../guests/build/crash-jump-to-zero.elf\"\n[[devices.virtio]]\ntype = \"block\"\nfile = \"virtio.img\"\n"
        ),
    ),
];

/// All scenarios.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("hello", "configs/long.toml", &["run", "configs/long.toml"]),
    Scenario::new(
        "collect",
        "configs/long.toml",
        &["run", "configs/long.toml", "--set", "devices.debug-console.collect=true"],
    ),
    Scenario::new("input", "configs/echo.toml", &["run", "configs/echo.toml"]).with_input("line\nquit\n"),
    Scenario::new("processors", "configs/timer-smp.toml", &["run", "configs/timer-smp.toml"]),
    // One tick of a timer, then a sleep that nothing ends: the same on a host of any speed.
    Scenario::new(
        "own-irqchip",
        "configs/crash/missing-eoi.toml",
        &["run", "configs/crash/missing-eoi.toml"],
    ),
    Scenario::new("suspend", "configs/suspend.toml", &["run", "configs/suspend.toml", "--no-autopsy"]),
    Scenario::new("autopsy", CRASH, &["run", CRASH]),
    Scenario::new("autopsy-with-cpuid", CRASH, &["run", CRASH, "--set", "cpuid=host", "--memory", "256MiB"]),
    // The guest is run again on a second machine with interrupt controllers.
    Scenario::new("autopsy-of-pc", CRASH, &["run", CRASH, "--set", "interrupts=pc"]),
    Scenario::new(
        "files",
        CRASH,
        &[
            "run",
            CRASH,
            "--report",
            "{out}/report.json",
            "--core",
            "{out}/core",
            "--trace-out",
            "{out}/trace",
        ],
    ),
    Scenario::new(
        "earlier-files",
        CRASH,
        &["run", CRASH, "--force", "--report", "{out}/report.json", "--core", "{out}/core"],
    )
    .with_files(&[("report.json", "earlier"), ("core", "earlier")]),
    Scenario::new(
        "snapshot",
        "configs/long.toml",
        &["snapshot", "configs/long.toml", "--exits", "3", "-o", "{out}/snapshot"],
    ),
    Scenario::new("from", "{out}/snapshot", &["run", "configs/long.toml", "--from", "{out}/snapshot"])
        .with_preparation(&[&["snapshot", "configs/long.toml", "--exits", "3", "-o", "{out}/snapshot"]]),
    Scenario::new("virtio", "configs/virtio.toml", &["run", "configs/virtio.toml"]).with_disk(),
    Scenario::new("disk", "{out}/disk.toml", &["run", "{out}/disk.toml"]).with_files(DISK).with_disk(),
    Scenario::new("crash-with-disk", "{out}/crash.toml", &["run", "{out}/crash.toml"]).with_files(DISK),
    Scenario::new("platform", "configs/platform.toml", &["run", "configs/platform.toml"]),
    Scenario::new(
        "interrupt-storm",
        "configs/crash/interrupt-storm.toml",
        &["run", "configs/crash/interrupt-storm.toml"],
    ),
    Scenario::new(
        "snapshot-of-disk",
        "configs/virtio.toml",
        &["snapshot", "configs/virtio.toml", "--exits", "20", "-o", "{out}/snapshot"],
    ),
    Scenario::new("translate", "configs/long.toml", &["translate", "configs/long.toml", "0x100000", "--end"]),
    Scenario::new("pages", "configs/long.toml", &["pages", "configs/long.toml", "--end"]),
    Scenario::new(
        "dump",
        "configs/long.toml",
        &["dump", "configs/long.toml", "0x100000,64", "--end", "-o", "{out}/memory"],
    ),
    Scenario::new("bench", "configs/long.toml", &["bench", "configs/long.toml", "-n", "3", "--warmup", "1"])
        .with_times_in_output(),
    // New machines with interrupt controllers in the kernel.
    Scenario::new(
        "bench-of-pc",
        "configs/long.toml",
        &["bench", "configs/long.toml", "-n", "1", "--warmup", "0", "--set", "interrupts=pc"],
    )
    .with_times_in_output(),
    Scenario::new(
        "test",
        "configs/long.toml",
        &["test", "configs/long.toml", "configs/hypercalls.toml", "-j", "1", "--junit", "{out}/junit.xml"],
    )
    .with_times_in_output(),
    Scenario::new("test-boot-once", "configs/cases.toml", &["test", "configs/cases.toml", "-j", "1"])
        .with_times_in_output(),
    Scenario::new("gdb", "configs/long.toml", &["run", "configs/long.toml", "--gdb", "{out}/gdb"])
        .with_packets(&["?", "g", "s", "m100000,10", "bs", "c", "bc", "k"]),
    Scenario::new("check", "configs/long.toml", &["check", "configs/long.toml"]),
    Scenario::new("explain", "configs/long.toml", &["explain", "configs/long.toml"]),
    Scenario::new("doctor", "/dev/kvm", &["doctor"]).with_times_in_output(),
];
