//! `[guest]` and `[[load]]`: the files, where in memory they go, the entry, the stack pointer and the arguments.
//!
//! No file is opened here: `prepare` reads them.

use vmm_core::spec::HostFile;
use vmm_core::spec::mode::{Mode, OperandWidth};
use vmm_core::{Gpa, Gva, PAGE_SIZE};
use vmm_loader::boot::Protocol;

use super::{Context, Key, or, paging};
use crate::config::problem::ConfigProblem;
use crate::config::schema::{self, Spanned};
use crate::config::source::Span;
use crate::config::values::{Address, EntryChoice, nearest};
use crate::config::{File, FileKind, Module, ModuleKind};

/// Contents of `[guest]`.
pub(super) struct Guest {
    pub(super) file: Option<File>,
    pub(super) entry: Option<EntryChoice>,
    pub(super) stack_top: Option<Gpa>,
    pub(super) arguments: Vec<String>,
    pub(super) command_line: Option<String>,
    pub(super) modules: Vec<Module>,
}

/// Lowers `[guest]`: file, entry, stack pointer, arguments, command line and modules.
pub(super) fn lower(cx: &mut Context<'_>) -> Guest {
    let Some(table) = &cx.document.guest else {
        if !cx.problems.is_unread("guest") {
            let missing = ConfigProblem::in_file("`[guest]` is missing");
            cx.problem(missing.help("add a table `[guest]` with `elf = \"...\"`"));
        }
        let (arguments, modules) = Default::default();
        return Guest { file: None, entry: None, stack_top: None, arguments, command_line: None, modules };
    };
    let guest = &table.value;
    let file = file(cx, guest, &table.span);
    if let Some(at) = &guest.entry {
        check_entry(cx, at, guest.flat.is_some());
    }
    // A flat binary starts at its first byte.
    let entry = match (&guest.entry, file.as_ref().map(|file| file.kind)) {
        (None, Some(FileKind::Flat { address })) => {
            check_address(cx, address.0, guest.address.as_ref().map_or(&table.span, |at| &at.span), "entry");
            Some(EntryChoice::Address(Gva(address.0)))
        }
        (entry, _) => entry.as_ref().map(|at| at.value.clone()),
    };
    Guest {
        file,
        entry,
        stack_top: guest.stack.as_ref().map(|at| stack(cx, at)),
        arguments: guest.args.iter().flat_map(|args| &args.value).map(|at| argument(cx, at)).collect(),
        command_line: guest.cmdline.as_ref().map(|at| kernel_text(cx, at, "a command line")),
        modules: modules(cx, guest),
    }
}

/// Checks and returns a text that is passed to a kernel as a NUL-terminated string.
fn kernel_text(cx: &mut Context<'_>, at: &Spanned<String>, what: &str) -> String {
    check_boot_info(cx, &at.span, what);
    if at.value.contains('\0') {
        cx.problem(ConfigProblem::new(
            &at.span,
            format!("{what} cannot contain a NUL: the kernel gets it NUL-terminated"),
        ));
    }
    at.value.clone()
}

/// Checks that the boot protocol can pass boot information to the guest.
fn check_boot_info(cx: &mut Context<'_>, span: &Span, what: &str) {
    let Some(protocol) = cx.protocol.filter(|protocol| !protocol.takes_boot_info()) else { return };
    let problem = ConfigProblem::new(span, format!("a guest started by `{protocol}` cannot be told {what}"));
    cx.problem(problem.help(match protocol.is_plain() {
        true => "arguments for a program of your own go into `args`; multiboot, multiboot2, pvh and linux have more",
        false => "leave it out",
    }));
}

fn check_entry(cx: &mut Context<'_>, at: &Spanned<EntryChoice>, is_flat: bool) {
    match &at.value {
        EntryChoice::Symbol(name) => {
            if is_flat {
                let problem =
                    ConfigProblem::new(&at.span, format!("a flat binary has no symbols, so no `{name}`"));
                cx.problem(problem.help(
                    "give the address, such as `0x7c00`, or leave `entry` out to start at its first byte",
                ));
            }
        }
        EntryChoice::Address(address) => check_address(cx, address.0, &at.span, "entry"),
        EntryChoice::Segmented { segment, offset } => {
            let linear = (u64::from(*segment) << 4).saturating_add(u64::from(*offset));
            if cx.mode.is_some_and(Mode::is_protected) {
                let message = format!("`segment:offset` is for real mode, not {} mode", cx.mode_name());
                cx.problem(ConfigProblem::new(&at.span, message).help("give a linear address"));
            } else if linear >= Mode::Real.address_limit() {
                let message = format!("{segment:#x}:{offset:#x} is the address {linear:#x}, beyond 1 MiB");
                cx.problem(ConfigProblem::new(&at.span, message));
            }
        }
    }
}

/// Checks that code in the mode can use a virtual address.
fn check_address(cx: &mut Context<'_>, address: u64, span: &Span, what: &str) {
    let Some(mode) = cx.mode else { return };
    let five_level = cx.document.paging.as_ref().is_some_and(|paging| or(&paging.value.five_level, false));
    let reached = match mode.operand_width() {
        OperandWidth::Bits16 | OperandWidth::Bits32 => address < mode.address_limit(),
        OperandWidth::Bits64 => paging::is_canonical(address, five_level),
    };
    if !reached {
        let problem =
            ConfigProblem::new(span, format!("the {what} {address:#x} cannot be reached in {mode} mode"));
        cx.problem(problem.help(match mode.operand_width() {
            OperandWidth::Bits16 => "real mode reaches the lowest 1 MiB",
            OperandWidth::Bits32 => "this mode has addresses of 32 bits",
            OperandWidth::Bits64 => "the address is not canonical: its upper bits are not all alike",
        }));
    }
}

/// Checks the initial stack pointer: the byte below it must be memory.
fn stack(cx: &mut Context<'_>, at: &Spanned<Address>) -> Gpa {
    let top = at.value.0;
    let Some(first) = top.checked_sub(1) else {
        cx.problem(ConfigProblem::new(
            &at.span,
            "the stack grows down from its top: there is nothing below 0",
        ));
        return Gpa(top);
    };
    if cx.regions.is_unmapped(first) {
        let problem = ConfigProblem::new(&at.span, format!("no memory below the stack top {top:#x}"));
        cx.problem(problem.help(cx.regions.describe()));
    } else if let Some(mode) = cx.mode {
        let reached = match mode.operand_width() {
            OperandWidth::Bits16 => top <= mode.address_limit(),
            OperandWidth::Bits32 => top < mode.address_limit(),
            OperandWidth::Bits64 => true,
        };
        if !reached {
            cx.problem(ConfigProblem::new(
                &at.span,
                format!("the stack top {top:#x} cannot be reached in {mode} mode"),
            ));
        }
    }
    Gpa(top)
}

/// Checks an argument, which is passed as a NUL-terminated string.
fn argument(cx: &mut Context<'_>, at: &Spanned<String>) -> String {
    if at.value.contains('\0') {
        cx.problem(ConfigProblem::new(
            &at.span,
            "an argument cannot contain a NUL: the guest gets it NUL-terminated",
        ));
    }
    at.value.clone()
}

/// Returns the guest's file.
fn file(cx: &mut Context<'_>, guest: &schema::GuestTable, span: &Span) -> Option<File> {
    let named = [("file", &guest.file), ("elf", &guest.elf), ("flat", &guest.flat)];
    let mut named = named.into_iter().filter_map(|(key, at)| Some((key, at.as_ref()?)));
    let Some((key, at)) = named.next() else {
        if !["guest.file", "guest.elf", "guest.flat"].into_iter().any(|key| cx.problems.is_unread(key)) {
            let problem = ConfigProblem::new(span, "`[guest]` names no file");
            cx.problem(problem.help("add `elf = \"...\"`, or `flat = \"...\"` with an `address`"));
        }
        return None;
    };
    if let Some((_, second)) = named.next() {
        let problem = if guest.file.is_some() {
            let problem = ConfigProblem::new(&second.span, "the guest's file is named twice");
            problem.related(&at.span, "here, too").help("leave one of them out")
        } else {
            let problem =
                ConfigProblem::new(&second.span, "a guest is an ELF file or a flat binary, not both");
            problem.related(&at.span, "the ELF file is here").help("put one of them into a `[[load]]`")
        };
        cx.problem(problem);
        return None;
    }
    let full_key = format!("guest.{key}");
    let is_flat = key == "flat" || key == "file" && cx.protocol == Some(Protocol::Flat);
    check_key(cx, key, &at.span);
    if is_flat {
        if let Some(base) = &guest.base {
            let problem =
                ConfigProblem::new(&base.span, "`base` is for a static PIE, which a flat binary is not");
            cx.problem(problem.help("a flat binary is placed by `address`"));
        }
        let path = path(cx, at);
        let address = flat_address(cx, &guest.address, &at.span, "guest.address")?;
        return Some(File { path: path?, kind: FileKind::Flat { address }, key: full_key });
    }
    if let Some(address) = &guest.address {
        let problem = if key == "elf" {
            let text = "`address` is for a flat binary: an ELF file says where it goes";
            ConfigProblem::new(&address.span, text).help("leave it out; a static PIE is moved by `base`")
        } else {
            let text = "`address` is for a flat binary: other files say where they go";
            ConfigProblem::new(&address.span, text).help("leave it out, or add `boot = \"flat\"`")
        };
        cx.problem(problem);
    }
    let base = guest.base.as_ref().map(|at| {
        check_page(cx, at, "base");
        check_memory(cx, at.value.0, &at.span, "base");
        Gpa(at.value.0)
    });
    Some(File { path: path(cx, at)?, kind: FileKind::Elf { base }, key: full_key })
}

/// Checks that the key of the guest's file fits the boot protocol.
fn check_key(cx: &mut Context<'_>, key: &str, span: &Span) {
    let Some(boot) = &cx.document.boot else { return };
    let text = match (key, cx.protocol) {
        ("elf", Some(Protocol::Flat)) => "an ELF file says itself where it goes, and is no flat binary",
        ("flat", Some(protocol)) if protocol != Protocol::Flat => {
            "a flat binary is bytes without a boot protocol"
        }
        _ => return,
    };
    let problem = ConfigProblem::new(span, text).related(&boot.span, "the boot protocol is chosen here");
    cx.problem(problem.help("name it by `file`, whatever its format"));
}

/// Returns the initrd and the modules, in that order.
fn modules(cx: &mut Context<'_>, guest: &schema::GuestTable) -> Vec<Module> {
    let mut modules = Vec::new();
    if let Some(at) = &guest.initrd {
        check_boot_info(cx, &at.span, "of an initrd");
        let key = "guest.initrd".to_owned();
        modules.extend(path(cx, at).map(|path| Module {
            path,
            key,
            kind: ModuleKind::Initrd,
            command_line: None,
        }));
    }
    for (table, span, key) in guest.module.iter().flat_map(|module| module.tables("guest.module")) {
        check_boot_info(cx, &span, "of modules");
        let name = Key { path: format!("{key}.file"), name: "file", example: "file = \"module.bin\"" };
        let path = cx.required(&table.file, &span, &name).and_then(|at| path(cx, at));
        let command_line = table.cmdline.as_ref().map(|at| kernel_text(cx, at, "a module's command line"));
        modules.extend(path.map(|path| Module {
            path,
            key: name.path,
            kind: ModuleKind::Module,
            command_line,
        }));
    }
    modules
}

/// Lowers `[[load]]`.
pub(super) fn loads(cx: &mut Context<'_>) -> Vec<File> {
    let tables = cx.document.load.iter().flat_map(|load| load.tables("load"));
    tables.filter_map(|(load, span, path)| extra(cx, load, &span, &path)).collect()
}

fn extra(cx: &mut Context<'_>, load: &schema::Load, span: &Span, key: &str) -> Option<File> {
    match (&load.elf, &load.file) {
        (Some(elf), Some(file)) => {
            let problem =
                ConfigProblem::new(&file.span, "one `[[load]]` is one file: `elf` or `file`, not both");
            cx.problem(problem.related(&elf.span, "the ELF file is here").help("write a second `[[load]]`"));
            None
        }
        (None, None) => {
            if !cx.problems.has_unread_inside(key) {
                cx.problem(
                    ConfigProblem::new(span, "`[[load]]` names no file")
                        .help("add `file = \"...\"` with an `address`"),
                );
            }
            None
        }
        (Some(elf), None) => {
            if let Some(address) = &load.address {
                let problem = ConfigProblem::new(
                    &address.span,
                    "`address` is for `file`: an ELF file says where it goes",
                );
                cx.problem(problem.help("leave it out, or load the file as it is with `file`"));
            }
            let kind = FileKind::Elf { base: None };
            Some(File { path: path(cx, elf)?, kind, key: format!("{key}.elf") })
        }
        (None, Some(file)) => {
            let path = path(cx, file);
            let address = flat_address(cx, &load.address, &file.span, &format!("{key}.address"))?;
            Some(File { path: path?, kind: FileKind::Flat { address }, key: format!("{key}.file") })
        }
    }
}

fn flat_address(
    cx: &mut Context<'_>,
    address: &Option<Spanned<Address>>,
    span: &Span,
    key: &str,
) -> Option<Gpa> {
    let Some(at) = address else {
        if !cx.problems.is_unread(key) {
            let problem =
                ConfigProblem::new(span, "this file has no `address`, and does not say itself where it goes");
            cx.problem(problem.help("add the address of its first byte, such as `address = 0x7c00`"));
        }
        return None;
    };
    check_memory(cx, at.value.0, &at.span, "address");
    Some(Gpa(at.value.0))
}

/// Returns the file, relative to the TOML file, with `{mode}` replaced.
fn path(cx: &mut Context<'_>, at: &Spanned<String>) -> Option<HostFile> {
    let written = &at.value;
    if written.is_empty() || written.contains('\0') {
        cx.problem(ConfigProblem::new(&at.span, "this is not the path of a file"));
        return None;
    }
    let filled = match cx.mode {
        Some(mode) => written.replace("{mode}", mode.name()),
        None if written.contains("{mode}") => {
            if !cx.problems.is_unread("mode") && !cx.problems.is_unread("boot") {
                let problem = ConfigProblem::new(&at.span, "`{mode}` stands for the mode, and none is given");
                cx.problem(problem.help("add `mode = ...`, or name the file in full"));
            }
            return None;
        }
        None => written.clone(),
    };
    // Braces are allowed in file names, but a misspelt `{mode}` is an error.
    if let Some((_, rest)) = filled.split_once('{')
        && let Some((word, _)) = rest.split_once('}')
        && nearest(word, ["mode"]).is_some()
    {
        cx.problem(
            ConfigProblem::new(&at.span, format!("`{{{word}}}` stands for nothing"))
                .help("did you mean `{mode}`?"),
        );
        return None;
    }
    Some(cx.host_file(&filled, &at.span))
}

fn check_page(cx: &mut Context<'_>, at: &Spanned<Address>, what: &str) {
    if !at.value.0.is_multiple_of(PAGE_SIZE) {
        cx.problem(ConfigProblem::new(
            &at.span,
            format!("the {what} {:#x} is not a multiple of 4 KiB", at.value.0),
        ));
    }
}

fn check_memory(cx: &mut Context<'_>, address: u64, span: &Span, what: &str) {
    if cx.regions.is_unmapped(address) {
        let problem = ConfigProblem::new(span, format!("no memory at the {what} {address:#x}"));
        cx.problem(problem.help(cx.regions.describe()));
    }
}
