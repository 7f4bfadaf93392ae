//! `[devices.NAME]`: devices of the machine and their addresses. No two devices share an address.

use vmm_core::devices::{DeviceInfo, DeviceKind};
use vmm_core::spec::{
    BusAddress, DebugConsoleSpec, DebugExitSpec, DeviceSpecs, HypercallSpec, Interrupts, SerialSpec,
};
use vmm_core::{Gpa, Port};

use super::ranges::{ClaimedRanges, Range, overlap};
use super::{Context, or, platform, processors, virtio};
use crate::config::FwCfgSource;
use crate::config::problem::ConfigProblem;
use crate::config::schema::{Devices, MovableDevice, Spanned};
use crate::config::source::Span;
use crate::config::values;

/// Ports are numbered with 16 bits (SDM vol. 1, 19.3).
const PORTS: u64 = 1 << 16;

/// Lowers all devices. The second value are the ranges in guest-physical address space, the third files that have to be read.
pub(super) fn lower(cx: &mut Context<'_>) -> (DeviceSpecs, Vec<Range>, Vec<FwCfgSource>) {
    let nothing = Devices::default();
    let raw = cx.document.devices.as_ref().map_or(&nothing, |at| &at.value);
    let mut claimed = ClaimedRanges::default();
    let (platform, fw_cfg) = platform::lower(cx, raw, &mut claimed);

    let collect = collect(cx, raw);
    let debug_console = address(cx, &mut claimed, DeviceKind::DebugConsole, &raw.debug_console)
        .map(|at| DebugConsoleSpec { at, collect });
    let default = !virtio::takes_input(cx);
    let input = raw.serial.as_ref().map_or(default, |at| or(&at.value.input, default));
    let serial =
        address(cx, &mut claimed, DeviceKind::Serial, &raw.serial).map(|at| SerialSpec { at, input });
    let success = match raw.debug_exit.as_ref().and_then(|at| at.value.success.as_ref()) {
        Some(values) => values.value.iter().filter_map(|value| success_value(cx, value)).collect(),
        None => vec![0],
    };
    let debug_exit = address(cx, &mut claimed, DeviceKind::DebugExit, &raw.debug_exit)
        .map(|at| DebugExitSpec { at, success });
    // The configuration device's ports, which others have chosen, lie among those of the hypercall device, which are ours.
    let has_hypercall = raw.hypercall.is_some() || platform.fw_cfg.is_none();
    let host_addresses = raw.hypercall.as_ref().and_then(|at| at.value.host_addresses.as_ref());
    let host_addresses = host_addresses.filter(|at| at.value).is_some_and(|at| {
        let assignment = "devices.hypercall.host-addresses = true";
        cx.refuse_in_note(&at.span, assignment, "it tells the guest where it lies in this process");
        true
    });
    let hypercall = has_hypercall
        .then(|| address(cx, &mut claimed, DeviceKind::Hypercall, &raw.hypercall))
        .flatten()
        .map(|at| HypercallSpec { at, host_addresses });
    let virtio = virtio::lower(cx, &mut claimed.windows);
    let custom = Vec::new();
    let specs = DeviceSpecs { debug_console, serial, debug_exit, hypercall, platform, virtio, custom };
    (specs, claimed.windows, fw_cfg)
}

/// Returns true if the kernel collects what the debug console prints.
fn collect(cx: &mut Context<'_>, raw: &Devices) -> bool {
    let Some(console) = raw.debug_console.as_ref().map(|at| &at.value) else { return false };
    let Some(collect) = console.collect.as_ref().filter(|collect| collect.value) else { return false };
    if let Some(mmio) = &console.mmio {
        let problem = ConfigProblem::new(&collect.span, "only what is written to a port can be collected");
        cx.problem(problem.related(&mmio.span, "the console has an address here"));
    } else if processors::interrupts(cx) != Interrupts::None {
        let message = "output can be collected only on a machine without interrupts";
        let problem = ConfigProblem::new(&collect.span, message);
        cx.problem(
            problem.help("a vCPU that sleeps in the kernel would keep what it wrote: leave `collect` out"),
        );
    }
    true
}

fn success_value(cx: &mut Context<'_>, value: &Spanned<values::Count>) -> Option<u32> {
    let narrow = u32::try_from(value.value.0).ok();
    if narrow.is_none() {
        cx.problem(ConfigProblem::new(&value.span, "the exit port takes values of at most 32 bits"));
    }
    narrow
}

/// Returns the address of a movable device, checked against those before it; `None` if the device is left out or its address
/// is wrong.
fn address<T: MovableDevice>(
    cx: &mut Context<'_>,
    claimed: &mut ClaimedRanges,
    kind: DeviceKind,
    table: &Option<Spanned<T>>,
) -> Option<BusAddress> {
    let device = kind.info();
    let keys = table.as_ref().map(|at| at.value.location()).unwrap_or_default();
    if let (Some(port), Some(mmio)) = (keys.port, keys.mmio) {
        let message = format!("{} can have a port or an address, not both", device.title);
        cx.problem(ConfigProblem::new(&mmio.span, message).related(&port.span, "the port is here"));
        return None;
    }
    if keys.enabled.is_some_and(|enabled| !enabled.value) {
        return None;
    }
    if let Some(mmio) = keys.mmio {
        let window = range(device, mmio.value.0, Some(&mmio.span));
        check_window(cx, &window, &claimed.windows);
        claimed.windows.push(window);
        return Some(BusAddress::Mmio(Gpa(mmio.value.0)));
    }
    let port = match (keys.port, device.location.address()) {
        (Some(at), _) => Port(at.value.0),
        (None, BusAddress::Port(port)) => port,
        (None, at @ BusAddress::Mmio(address)) => {
            claimed.windows.push(range(device, address.0, None));
            return Some(at);
        }
    };
    let range = range(device, u64::from(port.0), keys.port.map(|at| &at.span));
    if let (true, Some(span)) = (range.last().is_none_or(|last| last >= PORTS), &range.span) {
        let last_start = PORTS.saturating_sub(device.length);
        cx.problem(
            ConfigProblem::new(
                span,
                format!("{} needs {} ports and would go beyond 0xffff", device.title, device.length),
            )
            .help(format!("the last port it fits at is {last_start:#x}")),
        );
    }
    for other in &claimed.ports {
        if range.overlaps(other) {
            // A default gives way to what the user wrote: the error is at the one with a place.
            cx.problem(
                overlap(&range, other)
                    .help("move one of them by its `port`, or leave it out with `enabled = false`"),
            );
        }
    }
    claimed.ports.push(range);
    Some(BusAddress::Port(port))
}

fn check_window(cx: &mut Context<'_>, window: &Range, others: &[Range]) {
    let Some(span) = &window.span else { return };
    if window.last().is_none_or(|last| last >= super::memory::PHYSICAL_END) {
        cx.problem(
            ConfigProblem::new(span, format!("{} would lie beyond the physical address space", window.name))
                .help(format!("physical addresses end at {:#x} (52 bits)", super::memory::PHYSICAL_END)),
        );
    }
    if let Some(region) = cx.regions.list.iter().find(|region| window.overlaps(region)).cloned() {
        let help = "an access to memory never reaches a device: choose an address outside of it";
        cx.problem(overlap(window, &region).help(help));
    }
    for other in others.iter().filter(|other| window.overlaps(other)) {
        cx.problem(overlap(window, other).help("move one of them by its `mmio`"));
    }
}

/// Returns the range of a device; no span means its default address.
fn range(device: &DeviceInfo, start: u64, span: Option<&Span>) -> Range {
    Range { name: device.title.to_owned(), start, length: device.length, span: span.cloned() }
}
