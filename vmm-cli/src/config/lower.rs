//! Lowering: checks the deserialized document and turns it into a [`Config`].
//!
//! One module for each table of the file. Each reports its problems to the same [`ConfigProblems`] and continues with a
//! substitute value; the result is used only if there are no problems. Consequences of a reported problem are not reported.
//!
//! Overlaps of tables, stack and the guest's segments are checked later, by `vmm_core::layout`.

mod boot;
mod cpuid;
mod devices;
mod expect;
mod guest;
mod layout;
mod limits;
mod memory;
mod paging;
mod platform;
mod processors;
mod ranges;
mod registers;
mod test;
mod tss;
mod virtio;

use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{
    BootSpec, GdtLayout, HaltPolicy, HostFile, IrqchipPlace, MachineSpec, ResetPolicy, UnmappedPolicy,
};
use vmm_loader::LoadPolicy;
use vmm_loader::boot::Protocol;

use super::note;
use super::problem::{ConfigProblem, ConfigProblems};
use super::schema::{Document, Spanned};
use super::source::Span;
use super::values::RingLevel;
use super::{Config, Start, StartChoice, Texts};
pub use memory::MEMORY_HOLE;
use memory::Regions;
pub(super) use test::MAX_CASES;

/// State that the modules for the tables share.
struct Context<'a> {
    document: &'a Document,
    texts: &'a Texts,
    /// Mode; `None` if the guest's file decides it or if the key cannot be read. Nothing that depends on it is checked then.
    mode: Option<Mode>,
    /// Boot protocol; `None` if the guest's file decides it.
    protocol: Option<Protocol>,
    ring: Ring,
    regions: Regions,
    problems: &'a mut ConfigProblems,
}

impl Context<'_> {
    fn problem(&mut self, problem: ConfigProblem) {
        self.problems.push(problem);
    }

    /// Returns the file that a value at `span` names, relative to the directory of the configuration. The only origin of
    /// files that a run opens for a configuration.
    fn host_file(&self, written: &str, span: &Span) -> HostFile {
        let path = self.texts.directory().join(written);
        if self.is_confined(span) { self.texts.host_file(path) } else { HostFile::new(path) }
    }

    /// Returns true if the value at `span` is from a note that is not trusted.
    fn is_confined(&self, span: &Span) -> bool {
        self.texts.confinement().is_some() && self.texts.sources.is_configuration(span)
    }

    /// Reports a value at `span` that a note may not have, unless it is trusted.
    fn refuse_in_note(&mut self, span: &Span, assignment: &str, effect: &str) {
        if self.is_confined(span) {
            let message = format!("a configuration inside an ELF file may not have `{assignment}`: {effect}");
            self.problem(ConfigProblem::new(span, message).help(note::HELP));
        }
    }

    /// Returns the value of a required key. A missing one is reported at its table, unless it is there and unreadable.
    fn required<'v, T>(
        &mut self,
        value: &'v Option<Spanned<T>>,
        table: &Span,
        key: &Key<'_>,
    ) -> Option<&'v Spanned<T>> {
        if value.is_none() && !self.problems.is_unread(&key.path) {
            let missing = format!("`{}` is missing", key.name);
            self.problem(
                ConfigProblem::new(table, missing).help(format!("add it, such as `{}`", key.example)),
            );
        }
        value.as_ref()
    }

    /// Returns true if defaults are those of a PC, which guests with a boot protocol expect.
    fn is_pc(&self) -> bool {
        self.protocol.is_some_and(|protocol| !protocol.is_plain())
    }

    fn mode_name(&self) -> &'static str {
        self.mode.map_or("this", Mode::name)
    }
}

/// Required key.
struct Key<'k> {
    path: String,
    name: &'k str,
    example: &'k str,
}

/// Returns the value, or `default` if the key is left out.
fn or<T: Copy>(value: &Option<Spanned<T>>, default: T) -> T {
    value.as_ref().map_or(default, |at| at.value)
}

/// Lowers the whole file. `decided` holds what the guest's file has decided, if it has been read.
pub(super) fn lower(
    document: Document,
    texts: Texts,
    decided: StartChoice,
    problems: &mut ConfigProblems,
) -> Option<Config> {
    let raw = &document;
    let start = boot::start(raw, decided, problems);
    let StartChoice { protocol, mode } = start;
    let ring = raw.ring.as_ref().map_or(Ring::Kernel, |at| at.value.0);
    let mut cx =
        Context { document: raw, texts: &texts, mode, protocol, ring, regions: Regions::default(), problems };

    check_ring(&mut cx, raw.ring.as_ref());
    boot::check(&mut cx);
    let memory = memory::lower(&mut cx);
    let (devices, windows, fw_cfg) = devices::lower(&mut cx);
    let tss_address = tss::lower(&mut cx, &windows);
    let paging = paging::lower(&mut cx);
    let guest::Guest { file: guest, entry, stack_top, arguments, command_line, modules } =
        guest::lower(&mut cx);
    let loads = guest::loads(&mut cx);
    let loading = raw.guest.as_ref().and_then(|guest| guest.value.loading.as_ref());
    let loading = loading.map_or_else(LoadPolicy::default, |at| at.value);
    let pinned = layout::lower(&mut cx, stack_top);
    let registers = registers::presets(&mut cx);
    let limits = limits::lower(&mut cx);
    let expect = expect::lower(&mut cx);
    let test = test::lower(&mut cx);
    let (vcpus, interrupts) = processors::lower(&mut cx);
    let (cpuid, cpuid_changes) = cpuid::lower(&mut cx);
    let sse = raw.sse.as_ref().map(|at| at.value);
    let gdt_layout = if protocol == Some(Protocol::Linux) { GdtLayout::Linux } else { GdtLayout::Sysret };
    let machine = start.complete().map(|Start { mode, .. }| MachineSpec {
        memory,
        tss_address,
        vcpus,
        interrupts,
        irqchip: or(&cx.document.irqchip, IrqchipPlace::default()),
        boot: BootSpec { mode, ring, entry, paging, sse, registers, gdt_layout },
        pinned,
        devices,
        unmapped: or(&raw.unmapped, UnmappedPolicy::default()),
        halt: or(&raw.halt, if cx.is_pc() { HaltPolicy::Hung } else { HaltPolicy::Success }),
        reset: or(&raw.reset, ResetPolicy::default()),
        limits,
        cpuid,
        cpuid_changes,
        arguments,
    });
    let guest = guest?;
    Some(Config {
        start,
        guest,
        command_line,
        modules,
        loads,
        fw_cfg,
        loading,
        expect,
        test,
        machine,
        document,
        texts,
    })
}

/// Checks that a ring is given only in protected mode: real mode has no privilege levels (SDM vol. 3, 5.5).
fn check_ring(cx: &mut Context<'_>, ring: Option<&Spanned<RingLevel>>) {
    if let Some(ring) = ring
        && cx.mode.is_some_and(|mode| !mode.is_protected())
        && ring.value.0 == Ring::User
    {
        let problem = ConfigProblem::new(&ring.span, "real mode has no rings");
        cx.problem(problem.help("leave `ring` out, or choose another mode"));
    }
}
