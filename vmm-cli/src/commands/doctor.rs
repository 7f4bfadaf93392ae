//! `vmm-cli doctor`: shows if KVM works on this host, its capabilities, and the CPU modes that run.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use serde::Serialize;
use vmm_core::kvm_sys_wrap::{Capability, Kvm, Requirement, has_system_call_filters, landlock_version};
use vmm_core::machine::probe::{ModeProbe, ProbeResult};
use vmm_core::sandbox::WANTED_LANDLOCK;

use crate::diagnostic::Diagnostics;
use crate::options::Format;
use crate::status::Status;
use crate::stdout;

/// Findings about the host. The JSON form has these keys; more may come, none go.
#[derive(Debug, Serialize)]
struct HostReport {
    /// True if guests can run on this host.
    usable: bool,
    /// Reason and help, where `usable` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<KvmProblem>,
    /// Loaded kernel modules of KVM.
    backend: Vec<&'static str>,
    capabilities: Vec<CapabilityRow>,
    modes: Vec<ModeRow>,
    sandbox: SandboxRow,
}

/// Parts of the sandbox that the host has.
#[derive(Debug, Serialize)]
struct SandboxRow {
    /// True if the kernel has system call filters.
    seccomp: bool,
    /// Version of Landlock; absent without.
    #[serde(skip_serializing_if = "Option::is_none")]
    landlock: Option<u32>,
}

#[derive(Debug, Serialize)]
struct KvmProblem {
    message: String,
    help: Option<String>,
}

#[derive(Debug, Serialize)]
struct CapabilityRow {
    name: &'static str,
    value: i32,
    required: bool,
    purpose: &'static str,
}

#[derive(Debug, Serialize)]
struct ModeRow {
    mode: &'static str,
    ring: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'static str>,
    works: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

/// Kernel modules that implement KVM on x86, each with a description.
const BACKENDS: [(&str, &str); 3] = [
    ("kvm_intel", "Intel VT-x"),
    ("kvm_amd", "AMD SVM"),
    ("kvm_pvm", "page-table based, without VT-x and SVM: ring 0 is interpreted"),
];

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli doctor`.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<Status, Diagnostics> {
    let findings = examine();
    let text = match args.format {
        Format::Text => findings.text(),
        // Nothing in it can fail to serialize.
        Format::Json => serde_json::to_string_pretty(&findings).unwrap_or_default() + "\n",
    };
    stdout::print(&text)?;
    Ok(if findings.usable { Status::Success } else { Status::Host })
}

fn examine() -> HostReport {
    let backend: Vec<_> = BACKENDS
        .iter()
        .map(|(module, _)| *module)
        .filter(|module| Path::new("/sys/module").join(module).exists())
        .collect();
    let sandbox = SandboxRow { seccomp: has_system_call_filters(), landlock: landlock_version() };
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            let source =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let problem =
                KvmProblem { message: format!("{error}{source}"), help: crate::help::for_kvm(&error) };
            return HostReport {
                usable: false,
                problem: Some(problem),
                backend,
                capabilities: Vec::new(),
                modes: Vec::new(),
                sandbox,
            };
        }
    };
    let capabilities: Vec<_> = Capability::ALL
        .iter()
        .map(|capability| CapabilityRow {
            name: capability.name(),
            value: kvm.capability(*capability),
            required: capability.requirement() == Requirement::Required,
            purpose: capability.purpose(),
        })
        .collect();
    let missing = capabilities.iter().find(|c| c.required && c.value == 0);
    let problem = missing.map(|c| KvmProblem {
        message: format!("this host's KVM has no {}, which is needed {}", c.name, c.purpose),
        help: Some("use a newer kernel".to_owned()),
    });
    let usable = problem.is_none();
    let modes =
        if usable { ModeProbe::all().iter().map(|probe| attempt(probe, &kvm)).collect() } else { Vec::new() };
    HostReport { usable, problem, backend, capabilities, modes, sandbox }
}

fn attempt(probe: &ModeProbe, kvm: &Kvm) -> ModeRow {
    let why_not = match probe.run(kvm) {
        ProbeResult::Works => None,
        ProbeResult::Refused(error) => Some(error.to_string()),
        ProbeResult::Failed(end) => Some(end.to_string()),
    };
    ModeRow {
        mode: probe.mode.name(),
        ring: probe.ring.level(),
        extra: probe.extra,
        works: why_not.is_none(),
        why_not,
    }
}

impl HostReport {
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        if let Some(KvmProblem { message, help }) = &self.problem {
            writeln!(out, "KVM        not usable: {message}")?;
            if let Some(help) = help {
                writeln!(out, "           help: {help}")?;
            }
        } else {
            writeln!(out, "KVM        {} can be opened and speaks API version 12", Kvm::DEVICE)?;
        }
        for (module, meaning) in BACKENDS.iter().filter(|(module, _)| self.backend.contains(module)) {
            writeln!(out, "backend    {module}: {meaning}")?;
        }
        if self.backend.is_empty() {
            writeln!(out, "backend    no KVM module is loaded, or it is built into the kernel")?;
        }
        let seccomp = if self.sandbox.seccomp { "seccomp" } else { "no seccomp" };
        let landlock = match self.sandbox.landlock {
            None => "no Landlock: a guest that takes over the process can open files".to_owned(),
            Some(version @ ..WANTED_LANDLOCK) => {
                format!("Landlock {version}: version {WANTED_LANDLOCK} (Linux 6.12) also confines signals")
            }
            Some(version) => format!("Landlock {version}"),
        };
        writeln!(out, "sandbox    {seccomp}, {landlock}")?;
        for CapabilityRow { name, value, purpose, .. } in &self.capabilities {
            let value = if *value == 0 { "no".to_owned() } else { value.to_string() };
            writeln!(out, "capability {name:<36} {value:>6}  {purpose}")?;
        }
        for ModeRow { mode, ring, extra, why_not, .. } in &self.modes {
            let extra = extra.map(|extra| format!(", {extra}")).unwrap_or_default();
            let name = format!("{mode}, ring {ring}{extra}");
            match why_not {
                None => writeln!(out, "mode       {name:<36}  works")?,
                Some(reason) => writeln!(out, "mode       {name:<36}  does not work: {reason}")?,
            }
        }
        if self.modes.iter().any(|tried| !tried.works) {
            writeln!(
                out,
                "           help: what does not work here runs on an ordinary KVM host (VT-x or AMD-V);"
            )?;
            writeln!(out, "           in the source tree, `cargo xtask nested` emulates one")?;
        }
        Ok(())
    }
}
