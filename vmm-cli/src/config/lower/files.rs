//! The files of `[guest]` and `[[load]]`: where they are, and where in memory they go.
//!
//! Nothing is opened here: whether a file exists and what is in it, its reader finds out.

use std::path::{Path, PathBuf};

use vmm_core::Gpa;

use super::Context;
use crate::config::fault::Fault;
use crate::config::raw::{At, Guest, Load};
use crate::config::source::Span;
use crate::config::values::{Address, nearest};
use crate::config::{File, FileKind};

/// The guest's file.
pub(super) fn program(cx: &mut Context<'_>, guest: &Guest, span: &Span, directory: &Path) -> Option<File> {
    match (&guest.elf, &guest.flat) {
        (Some(elf), Some(flat)) => {
            let fault = Fault::new(&flat.span, "a guest is an ELF file or a flat binary, not both");
            cx.fault(
                fault.related(&elf.span, "the ELF file is here").help("put one of them into a `[[load]]`"),
            );
            None
        }
        (None, None) => {
            if !cx.faults.is_unread("guest.elf") && !cx.faults.is_unread("guest.flat") {
                let fault = Fault::new(span, "`[guest]` names no file");
                cx.fault(fault.help("add `elf = \"...\"`, or `flat = \"...\"` with an `address`"));
            }
            None
        }
        (Some(elf), None) => {
            if let Some(address) = &guest.address {
                let fault = Fault::new(
                    &address.span,
                    "`address` is for a flat binary: an ELF file says where it goes",
                );
                cx.fault(fault.help("leave it out; a static PIE is moved by `base`"));
            }
            let base = guest.base.as_ref().map(|at| {
                check_page(cx, at, "base");
                check_memory(cx, at.value.0, &at.span, "base");
                Gpa(at.value.0)
            });
            Some(File {
                path: path(cx, elf, directory)?,
                kind: FileKind::Elf { base },
                key: "guest.elf".to_owned(),
            })
        }
        (None, Some(flat)) => {
            if let Some(base) = &guest.base {
                let fault = Fault::new(&base.span, "`base` is for a static PIE, which a flat binary is not");
                cx.fault(fault.help("a flat binary is placed by `address`"));
            }
            let path = path(cx, flat, directory);
            let address = flat_address(cx, &guest.address, &flat.span, "guest.address")?;
            Some(File { path: path?, kind: FileKind::Flat { address }, key: "guest.flat".to_owned() })
        }
    }
}

/// Lowers `[[load]]`.
pub(super) fn loads(cx: &mut Context<'_>, directory: &Path) -> Vec<File> {
    let tables = cx.raw.load.iter().flat_map(|load| load.tables("load"));
    tables.filter_map(|(load, span, path)| extra(cx, load, &span, &path, directory)).collect()
}

fn extra(cx: &mut Context<'_>, load: &Load, span: &Span, key: &str, directory: &Path) -> Option<File> {
    match (&load.elf, &load.file) {
        (Some(elf), Some(file)) => {
            let fault = Fault::new(&file.span, "one `[[load]]` is one file: `elf` or `file`, not both");
            cx.fault(fault.related(&elf.span, "the ELF file is here").help("write a second `[[load]]`"));
            None
        }
        (None, None) => {
            if !cx.faults.has_unread_inside(key) {
                cx.fault(
                    Fault::new(span, "`[[load]]` names no file")
                        .help("add `file = \"...\"` with an `address`"),
                );
            }
            None
        }
        (Some(elf), None) => {
            if let Some(address) = &load.address {
                let fault =
                    Fault::new(&address.span, "`address` is for `file`: an ELF file says where it goes");
                cx.fault(fault.help("leave it out, or load the file as it is with `file`"));
            }
            let kind = FileKind::Elf { base: None };
            Some(File { path: path(cx, elf, directory)?, kind, key: format!("{key}.elf") })
        }
        (None, Some(file)) => {
            let path = path(cx, file, directory);
            let address = flat_address(cx, &load.address, &file.span, &format!("{key}.address"))?;
            Some(File { path: path?, kind: FileKind::Flat { address }, key: format!("{key}.file") })
        }
    }
}

fn flat_address(cx: &mut Context<'_>, address: &Option<At<Address>>, span: &Span, key: &str) -> Option<Gpa> {
    let Some(at) = address else {
        if !cx.faults.is_unread(key) {
            let fault = Fault::new(span, "this file has no `address`, and does not say itself where it goes");
            cx.fault(fault.help("add the address of its first byte, such as `address = 0x7c00`"));
        }
        return None;
    };
    check_memory(cx, at.value.0, &at.span, "address");
    Some(Gpa(at.value.0))
}

/// The path with `{mode}` filled in, relative to the TOML file.
fn path(cx: &mut Context<'_>, at: &At<String>, directory: &Path) -> Option<PathBuf> {
    let written = &at.value;
    if written.is_empty() || written.contains('\0') {
        cx.fault(Fault::new(&at.span, "this is not the path of a file"));
        return None;
    }
    let mode = cx.mode?;
    let filled = written.replace("{mode}", mode.name());
    // Braces are allowed in file names, but one that looks like a slip is none.
    if let Some((_, rest)) = filled.split_once('{')
        && let Some((word, _)) = rest.split_once('}')
        && nearest(word, ["mode"]).is_some()
    {
        cx.fault(
            Fault::new(&at.span, format!("`{{{word}}}` stands for nothing")).help("did you mean `{mode}`?"),
        );
        return None;
    }
    Some(directory.join(filled))
}

fn check_page(cx: &mut Context<'_>, at: &At<Address>, what: &str) {
    if !at.value.0.is_multiple_of(4096) {
        cx.fault(Fault::new(&at.span, format!("the {what} {:#x} is not a multiple of 4 KiB", at.value.0)));
    }
}

fn check_memory(cx: &mut Context<'_>, address: u64, span: &Span, what: &str) {
    if cx.regions.lack(address) {
        let fault = Fault::new(span, format!("no memory at the {what} {address:#x}"));
        cx.fault(fault.help(cx.regions.describe()));
    }
}
