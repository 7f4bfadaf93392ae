//! `[devices.NAME]` of a PC's devices and tables. By default a machine whose guest expects a PC has all of them, and other
//! machines have none.

use vmm_core::devices::fw_cfg::{MAX_FILES, MAX_NAME_LENGTH};
use vmm_core::devices::{DeviceInfo, DeviceKind, DeviceLocation};
use vmm_core::spec::{BusAddress, FwCfgFile, FwCfgSpec, Interrupts, PlatformSpec};

use super::ranges::{ClaimedRanges, Range, overlap};
use super::{Context, Key};
use crate::config::FwCfgSource;
use crate::config::problem::ConfigProblem;
use crate::config::schema::{self, Devices, Spanned};
use crate::config::source::Span;

/// Lowers a PC's devices and claims their addresses. The second value are the files that have to be read.
pub(super) fn lower(
    cx: &mut Context<'_>,
    raw: &Devices,
    claimed: &mut ClaimedRanges,
) -> (PlatformSpec, Vec<FwCfgSource>) {
    // A machine with a PC's interrupts is one.
    let pc = cx.is_pc() || cx.document.interrupts.as_ref().is_some_and(|at| at.value == Interrupts::Pc);
    let mut sources = Vec::new();
    let fw_cfg = match &raw.fw_cfg {
        Some(at) if at.value.enabled.as_ref().is_some_and(|enabled| !enabled.value) => None,
        Some(at) => Some(files(cx, &at.value, &mut sources)),
        None => pc.then(FwCfgSpec::default),
    };
    let mut spec = if pc { PlatformSpec::pc() } else { PlatformSpec::default() };
    spec.fw_cfg = fw_cfg;
    for (name, enabled) in spec.switches_mut() {
        if let Some(switch) = raw.switch(name) {
            *enabled = switch.value.enabled.as_ref().is_none_or(|enabled| enabled.value);
        }
    }
    for kind in DeviceKind::ALL {
        let DeviceLocation::Fixed(at) = kind.info().location else { continue };
        if kind.is_part_of(&spec) {
            claim(cx, kind.info(), at, raw.pc_span(*kind).cloned(), claimed);
        }
    }
    (spec, sources)
}

/// Claims a device's ports or addresses, for the overlap checks of later devices.
fn claim(
    cx: &mut Context<'_>,
    device: &DeviceInfo,
    at: BusAddress,
    span: Option<Span>,
    claimed: &mut ClaimedRanges,
) {
    let name = format!("device `{}`", device.name);
    let range = |start| Range { name, start, length: device.length, span };
    match at {
        BusAddress::Port(port) => claimed.ports.push(range(port.0.into())),
        BusAddress::Mmio(address) => {
            let window = range(address.0);
            if let Some(region) = cx.regions.list.iter().find(|region| window.overlaps(region)).cloned() {
                let help = "its address cannot be changed: keep it free of memory, or leave the device out";
                cx.problem(overlap(&window, &region).help(help));
            }
            claimed.windows.push(window);
        }
    }
}

/// Returns the files of the configuration device. Those with a path are read later.
fn files(cx: &mut Context<'_>, device: &schema::FwCfg, sources: &mut Vec<FwCfgSource>) -> FwCfgSpec {
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
                sources.push(FwCfgSource { index, path: cx.host_file(&at.value, &at.span), key });
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
