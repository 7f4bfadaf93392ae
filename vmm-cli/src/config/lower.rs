//! Step two: from values that can be read to a machine that makes sense.
//!
//! One module for each table of the file. Each reports what it finds to the same [`ConfigProblems`] and goes on with a value
//! that keeps the others going; the result counts only if nobody reported anything. What would follow from a mistake
//! already reported is not reported again.
//!
//! Whether tables, stack and the guest's segments fit together is not known here: `vmm_core::layout` checks that when
//! the guest's file has been read.

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
use vmm_core::spec::{GdtLayout, HaltPolicy, ResetPolicy, UnmappedPolicy};
use vmm_loader::boot::Protocol;

use super::problem::{ConfigProblem, ConfigProblems};
use super::schema::{Document, Spanned};
use super::source::Span;
use super::values::RingLevel;
use super::{Config, MachineTemplate, Start, StartChoice, Texts};
pub use memory::MEMORY_HOLE;
use memory::Regions;
pub(super) use test::MAX_CASES;

/// What the tables need to know of each other.
struct Context<'a> {
    document: &'a Document,
    /// The mode, or `None` where the file decides on it, or where it cannot be read: then nothing that depends on it is
    /// checked.
    mode: Option<Mode>,
    /// How the guest is started, or `None` where the file decides.
    protocol: Option<Protocol>,
    ring: Ring,
    regions: Regions,
    problems: &'a mut ConfigProblems,
}

impl Context<'_> {
    fn problem(&mut self, problem: ConfigProblem) {
        self.problems.push(problem);
    }

    /// The value of a key that has to be there; a missing one is reported at its table, unless it is there and wrong.
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

    /// Whether the guest expects a PC around its CPU: all that have a boot protocol do. It decides on defaults.
    fn is_pc(&self) -> bool {
        self.protocol.is_some_and(|protocol| !protocol.is_plain())
    }

    fn mode_name(&self) -> &'static str {
        self.mode.map_or("this", Mode::name)
    }
}

/// A key that has to be there.
struct Key<'k> {
    path: String,
    name: &'k str,
    example: &'k str,
}

/// The value, or `default` where the key is left out.
fn or<T: Copy>(value: &Option<Spanned<T>>, default: T) -> T {
    value.as_ref().map_or(default, |at| at.value)
}

/// Lowers the whole file. `decided` is what the guest's file has decided, if it has been read.
pub(super) fn lower(
    document: Document,
    texts: Texts,
    decided: StartChoice,
    problems: &mut ConfigProblems,
) -> Option<Config> {
    let (raw, directory) = (&document, texts.directory());
    let start = boot::start(raw, decided, problems);
    let StartChoice { protocol, mode } = start;
    let ring = raw.ring.as_ref().map_or(Ring::Kernel, |at| at.value.0);
    let mut cx = Context { document: raw, mode, protocol, ring, regions: Regions::default(), problems };

    check_ring(&mut cx, raw.ring.as_ref());
    boot::check(&mut cx);
    let memory = memory::lower(&mut cx);
    let (devices, windows, fw_cfg) = devices::lower(&mut cx, directory);
    let tss_address = tss::lower(&mut cx, &windows);
    let paging = paging::lower(&mut cx);
    let guest::Guest { file: guest, entry, stack_top, arguments, command_line, modules } =
        guest::lower(&mut cx, directory);
    let loads = guest::loads(&mut cx, directory);
    let loading = guest::loading(&cx);
    let pinned = layout::lower(&mut cx, stack_top);
    let registers = registers::presets(&mut cx);
    let limits = limits::lower(&mut cx);
    let expect = expect::lower(&mut cx);
    let test = test::lower(&mut cx);
    let (vcpus, interrupts) = processors::lower(&mut cx);
    let (cpuid, cpuid_changes) = cpuid::lower(&mut cx);
    let machine = start.complete().map(|Start { protocol, mode }| MachineTemplate {
        mode,
        ring,
        memory,
        tss_address,
        vcpus,
        interrupts,
        paging,
        sse: raw.sse.as_ref().map(|at| at.value),
        registers,
        gdt_layout: match protocol {
            Protocol::Linux => GdtLayout::Linux,
            Protocol::Elf
            | Protocol::Multiboot
            | Protocol::Multiboot2
            | Protocol::Pvh
            | Protocol::Flat
            | Protocol::BootSector => GdtLayout::Sysret,
        },
        pinned,
        devices,
        unmapped: or(&raw.unmapped, UnmappedPolicy::default()),
        halt: or(&raw.halt, if cx.is_pc() { HaltPolicy::Hung } else { HaltPolicy::Success }),
        reset: or(&raw.reset, ResetPolicy::default()),
        limits,
        cpuid,
        cpuid_changes,
        arguments,
        fw_cfg,
    });
    let guest = guest?;
    Some(Config {
        start,
        entry,
        guest,
        command_line,
        modules,
        loads,
        loading,
        expect,
        test,
        machine,
        document,
        texts,
    })
}

/// Real mode has no privilege levels (SDM vol. 3, 5.5: they are a matter of protected mode).
fn check_ring(cx: &mut Context<'_>, ring: Option<&Spanned<RingLevel>>) {
    if let (Some(ring), Some(Mode::Real)) = (ring, cx.mode)
        && ring.value.0 == Ring::User
    {
        let problem = ConfigProblem::new(&ring.span, "real mode has no rings");
        cx.problem(problem.help("leave `ring` out, or choose another mode"));
    }
}
