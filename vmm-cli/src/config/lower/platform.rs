//! `[devices.NAME]` of a PC's board. All of it is there where the guest expects a PC, and none of it elsewhere.

use std::path::Path;

use vmm_core::devices::fw_cfg::{MAX_FILES, MAX_NAME_LENGTH};
use vmm_core::devices::pc::{PcDevice, parts};
use vmm_core::spec::{DeviceAddress, FwCfgFile, FwCfgSpec, Interrupts, PlatformSpec};

use super::devices::Taken;
use super::ranges::{Range, overlap};
use super::{Context, Key};
use crate::config::FwCfgSource;
use crate::config::problem::ConfigProblem;
use crate::config::schema::{self, Devices, Spanned, Switch};
use crate::config::source::Span;

/// Lowers the board, and takes the addresses of its devices. The second value are the files that have to be read.
pub(super) fn lower(
    cx: &mut Context<'_>,
    raw: &Devices,
    directory: &Path,
    taken: &mut Taken,
) -> (PlatformSpec, Vec<FwCfgSource>) {
    // A machine with a PC's interrupts is one.
    let pc = cx.is_pc() || cx.document.interrupts.as_ref().is_some_and(|at| at.value == Interrupts::Pc);
    let on = |device: &Option<Spanned<Switch>>, default: bool| {
        device.as_ref().map_or(default, |at| at.value.enabled.as_ref().is_none_or(|enabled| enabled.value))
    };
    let mut sources = Vec::new();
    let fw_cfg = match &raw.fw_cfg {
        Some(at) if at.value.enabled.as_ref().is_some_and(|enabled| !enabled.value) => None,
        Some(at) => Some(files(cx, &at.value, directory, &mut sources)),
        None => pc.then(FwCfgSpec::default),
    };
    let spec = PlatformSpec {
        rtc: on(&raw.rtc, pc),
        i8042: on(&raw.i8042, pc),
        power: on(&raw.power, pc),
        legacy_ports: on(&raw.legacy_ports, pc),
        acpi: on(&raw.acpi, pc),
        mp_table: on(&raw.mp_table, pc),
        fw_cfg,
        kvm_testdev: on(&raw.kvm_testdev, false),
    };
    for part in parts(&spec) {
        take(cx, part, span(raw, part), taken);
    }
    (spec, sources)
}

/// Where the file speaks of a device.
fn span(raw: &Devices, part: PcDevice) -> Option<Span> {
    let switch = |device: &Option<Spanned<Switch>>| device.as_ref().map(|at| at.span.clone());
    match part {
        PcDevice::Rtc => switch(&raw.rtc),
        PcDevice::I8042 => switch(&raw.i8042),
        PcDevice::Power | PcDevice::ResetControl => switch(&raw.power),
        PcDevice::Crtc
        | PcDevice::SystemControl
        | PcDevice::Diagnostic
        | PcDevice::Delay
        | PcDevice::PciAddress
        | PcDevice::PciData => switch(&raw.legacy_ports),
        PcDevice::FwCfg => raw.fw_cfg.as_ref().map(|at| at.span.clone()),
        PcDevice::TestPorts | PcDevice::TestLines | PcDevice::TestMemory => switch(&raw.kvm_testdev),
    }
}

/// Takes a device's addresses: ports that all others are held against later, or a window.
fn take(cx: &mut Context<'_>, part: PcDevice, span: Option<Span>, taken: &mut Taken) {
    let range =
        |start| Range { name: format!("device `{}`", part.name()), start, length: part.length(), span };
    match part.at() {
        DeviceAddress::Port(port) => taken.ports.push(range(port.0.into())),
        DeviceAddress::Mmio(address) => {
            let window = range(address.0);
            if let Some(region) = cx.regions.list.iter().find(|region| window.overlaps(region)).cloned() {
                let help = "its address cannot be changed: keep it free of memory, or leave the device out";
                cx.problem(overlap(&window, &region).help(help));
            }
            taken.windows.push(window);
        }
    }
}

/// The files of the configuration device. Those that have a path are read later.
fn files(
    cx: &mut Context<'_>,
    device: &schema::FwCfg,
    directory: &Path,
    sources: &mut Vec<FwCfgSource>,
) -> FwCfgSpec {
    let tables = device.file.as_ref().map(|files| files.tables("devices.fw-cfg.file")).unwrap_or_default();
    let mut spec = FwCfgSpec::default();
    let mut names: Vec<(&str, &Span)> = Vec::new();
    for (index, (table, span, path)) in tables.iter().enumerate() {
        if index == MAX_FILES {
            cx.problem(ConfigProblem::new(
                span,
                format!("fw-cfg has keys for {MAX_FILES} files, and this is one more"),
            ));
            break;
        }
        let key = Key { path: format!("{path}.name"), name: "name", example: "name = \"opt/key\"" };
        if let Some(name) = cx.required(&table.name, span, &key) {
            check_name(cx, name, &names);
            names.push((&name.value, &name.span));
        }
        let bytes = match (&table.path, &table.text) {
            (Some(path), Some(text)) => {
                let problem = ConfigProblem::new(&text.span, "a file has a `path` or a `text`, not both");
                cx.problem(problem.related(&path.span, "the path is here"));
                Vec::new()
            }
            (None, Some(text)) => text.value.clone().into_bytes(),
            (Some(at), None) => {
                let key = format!("{path}.path");
                sources.push(FwCfgSource { index, path: directory.join(&at.value), key });
                Vec::new()
            }
            (None, None) => {
                let unread =
                    ["path", "text"].iter().any(|key| cx.problems.is_unread(&format!("{path}.{key}")));
                if !unread {
                    let problem = ConfigProblem::new(span, "nothing says what is in this file");
                    cx.problem(problem.help("add `path = \"...\"` or `text = \"...\"`"));
                }
                Vec::new()
            }
        };
        let name = table.name.as_ref().map(|at| at.value.clone()).unwrap_or_default();
        spec.files.push(FwCfgFile { name, bytes });
    }
    spec
}

fn check_name(cx: &mut Context<'_>, name: &Spanned<String>, others: &[(&str, &Span)]) {
    let fits = (1..=MAX_NAME_LENGTH).contains(&name.value.len());
    if !fits || !name.value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message =
            format!("a name in fw-cfg is 1 to {MAX_NAME_LENGTH} characters of ASCII without spaces");
        cx.problem(ConfigProblem::new(&name.span, message));
    }
    if let Some((_, first)) = others.iter().find(|(other, _)| *other == name.value) {
        let problem = ConfigProblem::new(&name.span, format!("fw-cfg has a file `{}` already", name.value));
        cx.problem(problem.related(first, "it is here"));
    }
}
