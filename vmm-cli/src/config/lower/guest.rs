//! `[guest]`: the entry, the stack pointer and the arguments. Its file is lowered in `files`.

use std::path::Path;

use vmm_core::Gpa;
use vmm_core::spec::mode::Mode;

use super::{Context, files, or, paging};
use crate::config::fault::Fault;
use crate::config::raw::At;
use crate::config::source::Span;
use crate::config::values::{Address, EntryChoice};
use crate::config::{File, FileKind, Module};

/// The first address that real mode does not reach, the last 16 bytes of `0xffff:0xffff` aside.
const REAL_END: u64 = 1 << 20;

/// What `[guest]` says.
pub(super) struct Program {
    pub(super) file: Option<File>,
    pub(super) entry: EntryChoice,
    pub(super) stack_top: Option<Gpa>,
    pub(super) arguments: Vec<String>,
    pub(super) command_line: Option<String>,
    pub(super) modules: Vec<Module>,
}

/// Lowers `[guest]`: the file, the entry, the stack pointer, the arguments, what the kernel is told.
pub(super) fn lower(cx: &mut Context<'_>, directory: &Path) -> Program {
    let entry = EntryChoice::FromFile;
    let Some(table) = &cx.raw.guest else {
        if !cx.faults.is_unread("guest") {
            let missing = Fault::in_file("`[guest]` is missing");
            cx.fault(missing.help("add a table `[guest]` with `elf = \"...\"`"));
        }
        let (arguments, modules) = Default::default();
        return Program { file: None, entry, stack_top: None, arguments, command_line: None, modules };
    };
    let guest = &table.value;
    let file = files::program(cx, guest, &table.span, directory);
    let entry = guest.entry.as_ref().map_or(entry, |at| at.value.clone());
    if let Some(at) = &guest.entry {
        check_entry(cx, at, guest.flat.is_some());
    }
    // A flat binary starts at its first byte.
    let entry = match (&entry, file.as_ref().map(|file| file.kind)) {
        (EntryChoice::FromFile, Some(FileKind::Flat { address })) => {
            check_address(cx, address.0, guest.address.as_ref().map_or(&table.span, |at| &at.span), "entry");
            EntryChoice::Address(vmm_core::Gva(address.0))
        }
        _ => entry,
    };
    Program {
        file,
        entry,
        stack_top: guest.stack.as_ref().map(|at| stack(cx, at)),
        arguments: guest.args.iter().flat_map(|args| &args.value).map(|at| argument(cx, at)).collect(),
        command_line: guest.cmdline.as_ref().map(|at| told(cx, at, "a command line")),
        modules: files::modules(cx, guest, directory),
    }
}

/// What only a kernel can be told. It travels as a NUL-terminated string.
pub(super) fn told(cx: &mut Context<'_>, at: &At<String>, what: &str) -> String {
    check_told(cx, &at.span, what);
    if at.value.contains('\0') {
        cx.fault(Fault::new(
            &at.span,
            format!("{what} cannot contain a NUL: the kernel gets it NUL-terminated"),
        ));
    }
    at.value.clone()
}

/// Whether the way the guest is started has a field for it.
pub(super) fn check_told(cx: &mut Context<'_>, span: &Span, what: &str) {
    let Some(protocol) = cx.protocol.filter(|protocol| !protocol.tells()) else { return };
    let fault = Fault::new(span, format!("a guest started by `{protocol}` cannot be told {what}"));
    cx.fault(fault.help(match protocol.is_plain() {
        true => "arguments for a program of your own go into `args`; multiboot, multiboot2, pvh and linux have more",
        false => "leave it out",
    }));
}

fn check_entry(cx: &mut Context<'_>, at: &At<EntryChoice>, is_flat: bool) {
    match &at.value {
        EntryChoice::FromFile => {}
        EntryChoice::Symbol(name) => {
            if is_flat {
                let fault = Fault::new(&at.span, format!("a flat binary has no symbols, so no `{name}`"));
                cx.fault(fault.help(
                    "give the address, such as `0x7c00`, or leave `entry` out to start at its first byte",
                ));
            }
        }
        EntryChoice::Address(address) => check_address(cx, address.0, &at.span, "entry"),
        EntryChoice::Segmented { segment, offset } => {
            let linear = (u64::from(*segment) << 4).saturating_add(u64::from(*offset));
            if cx.mode.is_some_and(|mode| mode != Mode::Real) {
                let message = format!("`segment:offset` is for real mode, not {} mode", cx.mode_name());
                cx.fault(Fault::new(&at.span, message).help("give a linear address"));
            } else if linear >= REAL_END {
                let message = format!("{segment:#x}:{offset:#x} is the address {linear:#x}, beyond 1 MiB");
                cx.fault(Fault::new(&at.span, message));
            }
        }
    }
}

/// Whether the mode reaches a virtual address.
fn check_address(cx: &mut Context<'_>, address: u64, span: &Span, what: &str) {
    let Some(mode) = cx.mode else { return };
    let five_level = cx.raw.paging.as_ref().is_some_and(|paging| or(&paging.value.five_level, false));
    let reached = match mode {
        Mode::Real => address < REAL_END,
        Mode::Protected | Mode::Paged | Mode::Pae => address <= u64::from(u32::MAX),
        Mode::Long => paging::is_canonical(address, five_level),
    };
    if !reached {
        let fault = Fault::new(span, format!("the {what} {address:#x} cannot be reached in {mode} mode"));
        cx.fault(fault.help(match mode {
            Mode::Real => "real mode reaches the lowest 1 MiB",
            Mode::Protected | Mode::Paged | Mode::Pae => "this mode has addresses of 32 bits",
            Mode::Long => "the address is not canonical: its upper bits are not all alike",
        }));
    }
}

/// The stack grows down from its top: the byte below it has to be memory.
fn stack(cx: &mut Context<'_>, at: &At<Address>) -> Gpa {
    let top = at.value.0;
    let Some(first) = top.checked_sub(1) else {
        cx.fault(Fault::new(&at.span, "the stack grows down from its top: there is nothing below 0"));
        return Gpa(top);
    };
    if cx.regions.lack(first) {
        let fault = Fault::new(&at.span, format!("no memory below the stack top {top:#x}"));
        cx.fault(fault.help(cx.regions.describe()));
    } else if let Some(mode) = cx.mode {
        let reached = match mode {
            Mode::Real => top <= REAL_END,
            Mode::Protected | Mode::Paged | Mode::Pae => top <= u64::from(u32::MAX),
            Mode::Long => true,
        };
        if !reached {
            cx.fault(Fault::new(
                &at.span,
                format!("the stack top {top:#x} cannot be reached in {mode} mode"),
            ));
        }
    }
    Gpa(top)
}

/// Arguments travel as NUL-terminated strings.
fn argument(cx: &mut Context<'_>, at: &At<String>) -> String {
    if at.value.contains('\0') {
        cx.fault(Fault::new(&at.span, "an argument cannot contain a NUL: the guest gets it NUL-terminated"));
    }
    at.value.clone()
}
