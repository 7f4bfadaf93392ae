//! `[devices.NAME]`: which devices there are, and where. No two answer to one address.

use std::path::Path;

use vmm_core::devices::length;
use vmm_core::spec::{DebugConsoleSpec, DebugExitSpec, DeviceAddress, DeviceSpecs, Interrupts, SerialSpec};
use vmm_core::{Gpa, Port};

use super::ranges::{Range, overlap};
use super::{Context, or, platform, processors, virtio};
use crate::config::FwCfgSource;
use crate::config::problem::ConfigProblem;
use crate::config::schema::{Devices, Spanned};
use crate::config::source::Span;
use crate::config::values::{self, Address};

/// Ports are numbered with 16 bits (SDM vol. 1, 19.3).
const PORTS: u64 = 1 << 16;

/// A device and where it is unless told otherwise.
struct Device {
    name: &'static str,
    default_port: Port,
    length: u64,
}

const DEBUG_CONSOLE: Device =
    Device { name: "the debug console", default_port: Port(0xe9), length: length::DEBUG_CONSOLE };
const SERIAL: Device = Device { name: "the serial port", default_port: Port(0x3f8), length: length::SERIAL };
const DEBUG_EXIT: Device =
    Device { name: "the exit port", default_port: Port(0xf4), length: length::DEBUG_EXIT };
const HYPERCALL: Device =
    Device { name: "the hypercall device", default_port: Port(0x500), length: length::HYPERCALL };

/// What the file says of a device's place; the same three keys in each device's table.
#[derive(Default, Clone, Copy)]
struct Seat<'r> {
    enabled: Option<&'r Spanned<bool>>,
    port: Option<&'r Spanned<values::Port>>,
    mmio: Option<&'r Spanned<Address>>,
}

macro_rules! seat {
    ($table:expr) => {
        $table.as_ref().map_or(Seat::default(), |at| Seat {
            enabled: at.value.enabled.as_ref(),
            port: at.value.port.as_ref(),
            mmio: at.value.mmio.as_ref(),
        })
    };
}

/// The address ranges taken so far.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) ports: Vec<Range>,
    pub(super) windows: Vec<Range>,
}

/// Lowers all devices; the second value are those in guest-physical address space, the third files that have to be read.
pub(super) fn lower(cx: &mut Context<'_>, directory: &Path) -> (DeviceSpecs, Vec<Range>, Vec<FwCfgSource>) {
    let nothing = Devices::default();
    let raw = cx.document.devices.as_ref().map_or(&nothing, |at| &at.value);
    let mut taken = Taken::default();
    let (platform, fw_cfg) = platform::lower(cx, raw, directory, &mut taken);

    let collect = collect(cx, raw);
    let debug_console = place(cx, &mut taken, &DEBUG_CONSOLE, seat!(raw.debug_console))
        .map(|at| DebugConsoleSpec { at, collect });
    let default = !virtio::takes_input(cx);
    let input = raw.serial.as_ref().map_or(default, |at| or(&at.value.input, default));
    let serial = place(cx, &mut taken, &SERIAL, seat!(raw.serial)).map(|at| SerialSpec { at, input });
    let success = match raw.debug_exit.as_ref().and_then(|at| at.value.success.as_ref()) {
        Some(values) => values.value.iter().filter_map(|value| success_value(cx, value)).collect(),
        None => vec![0],
    };
    let debug_exit =
        place(cx, &mut taken, &DEBUG_EXIT, seat!(raw.debug_exit)).map(|at| DebugExitSpec { at, success });
    // The configuration device's ports, which others have chosen, lie among those of the hypercall device, which are ours.
    let has_hypercall = raw.hypercall.is_some() || platform.fw_cfg.is_none();
    let hypercall = has_hypercall.then(|| place(cx, &mut taken, &HYPERCALL, seat!(raw.hypercall))).flatten();
    let virtio = virtio::lower(cx, directory, &mut taken.windows);
    (DeviceSpecs { debug_console, serial, debug_exit, hypercall, platform, virtio }, taken.windows, fw_cfg)
}

/// Whether the kernel collects what the debug console prints.
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

/// Where the device is, checked against those before it; `None` if it is left out or its place is wrong.
fn place(cx: &mut Context<'_>, taken: &mut Taken, device: &Device, seat: Seat<'_>) -> Option<DeviceAddress> {
    if let (Some(port), Some(mmio)) = (seat.port, seat.mmio) {
        let message = format!("{} can have a port or an address, not both", device.name);
        cx.problem(ConfigProblem::new(&mmio.span, message).related(&port.span, "the port is here"));
        return None;
    }
    if seat.enabled.is_some_and(|enabled| !enabled.value) {
        return None;
    }
    if let Some(mmio) = seat.mmio {
        let window = device.range(mmio.value.0, Some(&mmio.span));
        check_window(cx, &window, &taken.windows);
        taken.windows.push(window);
        return Some(DeviceAddress::Mmio(Gpa(mmio.value.0)));
    }
    let port = seat.port.map_or(device.default_port, |at| Port(at.value.0));
    let range = device.range(u64::from(port.0), seat.port.map(|at| &at.span));
    if let (true, Some(span)) = (range.last().is_none_or(|last| last >= PORTS), &range.span) {
        let last_start = PORTS.saturating_sub(device.length);
        cx.problem(
            ConfigProblem::new(
                span,
                format!("{} needs {} ports and would go beyond 0xffff", device.name, device.length),
            )
            .help(format!("the last port it fits at is {last_start:#x}")),
        );
    }
    for other in &taken.ports {
        if range.overlaps(other) {
            // A default gives way to what the user wrote: the error is at the one with a place.
            cx.problem(
                overlap(&range, other)
                    .help("move one of them by its `port`, or leave it out with `enabled = false`"),
            );
        }
    }
    taken.ports.push(range);
    Some(DeviceAddress::Port(port))
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

impl Device {
    fn range(&self, start: u64, span: Option<&Span>) -> Range {
        Range { name: self.name.to_owned(), start, length: self.length, span: span.cloned() }
    }
}
