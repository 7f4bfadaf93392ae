//! `[[devices.virtio]]`: type of each device, policy for a disk's writes, and receiver of the console's input.
//!
//! Images are not opened here; the preparation of a run checks them.

use vmm_core::spec::virtio::{MAX_DEVICES, WINDOW_LENGTH, window};
use vmm_core::spec::{BlockAccess, BlockSpec, HostFile, VirtioSpec};

use super::ranges::{Range, overlap};
use super::{Context, Key};
use crate::config::problem::ConfigProblem;
use crate::config::schema::{Spanned, Virtio, VirtioType};
use crate::config::source::Span;
use crate::config::values::Overlay;

/// Lowers the list. `windows` are the address ranges of other devices; those of the list are added.
pub(super) fn lower(cx: &mut Context<'_>, windows: &mut Vec<Range>) -> Vec<VirtioSpec> {
    let raw = cx.document;
    let list = raw.devices.as_ref().and_then(|devices| devices.value.virtio.as_ref());
    let tables = list.map(|list| list.tables("devices.virtio")).unwrap_or_default();
    let mut specs = Vec::new();
    for (index, (device, span, path)) in tables.iter().enumerate() {
        specs.extend(lower_device(cx, device, span, path));
        let Some(window) = window(index) else {
            let problem =
                ConfigProblem::new(span, format!("a machine can have {MAX_DEVICES} virtio devices"));
            cx.problem(problem.help("there are interrupts for no more"));
            break;
        };
        let name = format!("virtio device {}", index + 1);
        let range = Range { name, start: window.start().0, length: WINDOW_LENGTH, span: Some(span.clone()) };
        let region = cx.regions.list.iter().find(|region| range.overlaps(region)).cloned();
        let help = "virtio devices lie from 0xd000_0000 on, each with a page of its own: keep those free";
        for other in windows.iter().filter(|other| range.overlaps(other)).cloned().chain(region) {
            cx.problem(overlap(&range, &other).help(help));
        }
        windows.push(range);
    }
    check_input(cx, &tables);
    specs
}

/// Returns true if a virtio console has the console's input; the serial port then does not get it by default.
pub(super) fn takes_input(cx: &Context<'_>) -> bool {
    let list = cx.document.devices.as_ref().and_then(|devices| devices.value.virtio.as_ref());
    let tables = list.map(|list| list.tables("devices.virtio")).unwrap_or_default();
    tables.iter().any(|(device, _, _)| input(device).is_some())
}

/// Returns the span of `input = true` of a device.
fn input(device: &Virtio) -> Option<&Span> {
    device.input.as_ref().filter(|input| input.value).map(|input| &input.span)
}

/// Checks that at most one device has `input = true`.
fn check_input(cx: &mut Context<'_>, tables: &[(&Virtio, Span, String)]) {
    let devices = cx.document.devices.as_ref().map(|at| &at.value);
    let serial = devices.and_then(|devices| devices.serial.as_ref()).and_then(|serial| {
        let enabled = serial.value.enabled.as_ref().is_none_or(|enabled| enabled.value);
        serial.value.input.as_ref().filter(|input| enabled && input.value).map(|input| &input.span)
    });
    let takers: Vec<&Span> =
        serial.into_iter().chain(tables.iter().filter_map(|(device, ..)| input(device))).collect();
    for pair in takers.windows(2) {
        let [first, second] = pair else { continue };
        let problem = ConfigProblem::new(second, "another device has the console's input already");
        cx.problem(problem.related(first, "this one").help("only one device can have `input = true`"));
    }
}

fn lower_device(cx: &mut Context<'_>, device: &Virtio, span: &Span, path: &str) -> Option<VirtioSpec> {
    let key = Key { path: format!("{path}.type"), name: "type", example: "type = \"block\"" };
    let kind = cx.required(&device.kind, span, &key)?.value;
    let block_keys = [
        ("file", device.file.as_ref().map(|at| &at.span)),
        ("read-only", device.read_only.as_ref().map(|at| &at.span)),
        ("overlay", device.overlay.as_ref().map(|at| &at.span)),
        ("writable", device.writable.as_ref().map(|at| &at.span)),
    ];
    let console_keys = [("input", device.input.as_ref().map(|at| &at.span))];
    let (is_disk, is_console) = (kind == VirtioType::Block, kind == VirtioType::Console);
    let other_keys = [(!is_disk, &block_keys[..], "block"), (!is_console, &console_keys[..], "console")];
    for (_, keys, of) in other_keys.into_iter().filter(|(is_other, ..)| *is_other) {
        for (name, span) in keys.iter().filter_map(|(name, span)| Some((name, (*span)?))) {
            cx.problem(ConfigProblem::new(
                span,
                format!("`{name}` is a key of devices with `type = \"{of}\"`"),
            ));
        }
    }
    match kind {
        VirtioType::Entropy => Some(VirtioSpec::Entropy),
        VirtioType::Console => Some(VirtioSpec::Console { input: input(device).is_some() }),
        VirtioType::Block => {
            let key = Key { path: format!("{path}.file"), name: "file", example: "file = \"disk.img\"" };
            let access = access(cx, device, span, path);
            let file = cx.required(&device.file, span, &key)?;
            let image = host_file(cx, &file.value, &file.span)?;
            Some(VirtioSpec::Block(BlockSpec { image, access: access? }))
        }
    }
}

/// Returns the policy for the guest's writes. At most one key may set it.
fn access(cx: &mut Context<'_>, device: &Virtio, span: &Span, path: &str) -> Option<BlockAccess> {
    let enabled_span =
        |at: &Option<Spanned<bool>>| at.as_ref().filter(|at| at.value).map(|at| at.span.clone());
    let overlay = device.overlay.as_ref().filter(|at| at.value != Overlay::Temporary(false));
    let policies =
        [enabled_span(&device.read_only), overlay.map(|at| at.span.clone()), enabled_span(&device.writable)];
    let [_, _, writable] = &policies;
    let mut chosen = policies.iter().flatten();
    if let (Some(first), Some(second)) = (chosen.next(), chosen.next()) {
        let problem =
            ConfigProblem::new(second, "a disk is read-only, has an overlay, or is written in place");
        cx.problem(
            problem
                .related(first, "the other choice is here")
                .help("keep one of `read-only`, `overlay` and `writable`"),
        );
        return None;
    }
    let key = |name, value: &str| format!("{path}.{name} = {value}");
    match (overlay, writable) {
        (Some(Spanned { value: Overlay::File(name), span }), _) => {
            cx.refuse_in_note(span, &key("overlay", &format!("{name:?}")), "it would create a file");
            Some(BlockAccess::Overlay(host_file(cx, name, span)?.as_path().to_owned()))
        }
        (Some(_), _) => Some(BlockAccess::Temporary),
        (None, Some(span)) => {
            cx.refuse_in_note(span, &key("writable", "true"), "it would write to a file");
            Some(BlockAccess::InPlace)
        }
        (None, None) if device.read_only.as_ref().is_some_and(|at| !at.value) => {
            let problem = ConfigProblem::new(span, "nothing says what becomes of this disk's writes");
            cx.problem(problem.help(
                "add `overlay = true` (they vanish), `overlay = \"FILE\"` (a new file), or `writable = true` (in place)",
            ));
            None
        }
        (None, None) => Some(BlockAccess::ReadOnly),
    }
}

/// Returns the file that a key names.
fn host_file(cx: &mut Context<'_>, written: &str, span: &Span) -> Option<HostFile> {
    if written.is_empty() || written.contains('\0') {
        cx.problem(ConfigProblem::new(span, "this is not the path of a file"));
        return None;
    }
    Some(cx.host_file(written, span))
}
