//! Initial state of a vCPU: the registers for `KVM_SET_SREGS` and `KVM_SET_REGS`, and the tables for guest memory.
//!
//! A pure function of the reset registers, the description, the layout and the host's quirks. It makes no KVM call, so
//! every mode can be computed, printed and tested on any host.
//!
//! | file | step |
//! |---|---|
//! | `initial_state.rs` | the function, control registers |
//! | `real.rs` | segments of real mode |
//! | `flat.rs` | segments and tables of protected and long mode |
//! | `registers.rs` | instruction pointer, stack pointer, flags, the user's presets |
//! | `entry.rs` | check that the first instruction can be fetched |
//! | `problem.rs` | errors |
//!
//! The meaning of each control bit is in [`crate::cpu::control_regs`].

mod entry;
mod flat;
mod problem;
mod real;
mod registers;
#[cfg(test)]
mod tests;

use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};

use crate::Gpa;
use crate::cpu::control_regs::{Cr0, Cr4, Efer};
pub use crate::spec::table_image::TableImage;

use crate::cpu::ring3_trap::TrapPage;
use crate::firmware;
use crate::layout::{Layout, LayoutPart};
use crate::paging::plan::PagingPlan;
use crate::paging::walk::ReadMemory;
use crate::paging::{Scheme, build};
use crate::spec::gpa_range::GpaRange;
use crate::spec::mode::PageSize;
use crate::spec::{BootSpec, MachineSpec};

pub use crate::cpu::descriptor::TrType;
pub use problem::{StateError, StateProblem};

/// Differences between hosts that the initial state depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostQuirks {
    /// Type of the task register's descriptor.
    pub tr_type: TrType,
}

/// CPU feature that the initial state uses: the host must have it, and the guest's CPUID should announce it.
///
/// Known hosts accept NXE in `KVM_SET_SREGS` without CPUID, but then refuse the guest's own WRMSR. LA57 depends on the
/// kernel version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequiredFeature {
    /// Execute-disable, CPUID 0x8000_0001 EDX bit 20.
    Nx,
    /// 1 GiB pages, CPUID 0x8000_0001 EDX bit 26.
    Page1G,
    /// Five-level paging, CPUID 7 ECX bit 16.
    La57,
}

/// State of a vCPU before the guest's first instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct InitialState {
    /// Segments, descriptor tables, control registers and EFER, for `KVM_SET_SREGS`.
    pub sregs: kvm_sregs,
    /// General registers, RIP and RFLAGS, for `KVM_SET_REGS`.
    pub regs: kvm_regs,
    /// Tables for guest memory, sorted by address.
    pub images: Vec<TableImage>,
    /// Trap page; `None` if the guest is not in ring 3.
    pub trap_page: Option<TrapPage>,
    /// Features that the state uses and that not every host has.
    pub needs: Vec<RequiredFeature>,
}

/// Computes the initial state of the first vCPU from its reset registers, the machine's description and its layout.
///
/// # Errors
/// All problems with the entry point and the preset registers.
pub fn initial_state(
    reset: &kvm_sregs,
    spec: &MachineSpec,
    layout: &Layout,
    quirks: HostQuirks,
) -> Result<InitialState, StateError> {
    let boot = &spec.boot;
    let mut sregs = *reset;
    control_registers(&mut sregs, boot, layout.paging());

    let mut images = Vec::new();
    if !boot.mode.is_protected() {
        real::segments(&mut sregs, boot, layout)?;
    } else {
        flat::segments(&mut sregs, &mut images, boot, layout, quirks)?;
    }
    if let Some(plan) = layout.paging() {
        let range = required(layout, LayoutPart::PageTables)?;
        sregs.cr3 = range.start().0;
        images.push(image(range, LayoutPart::PageTables, build::bytes(plan, range.start()))?);
    }
    images.extend(firmware::images(spec));
    images.sort_by_key(|image| image.gpa);

    let mut problems = Vec::new();
    let regs = registers::registers(boot, layout, &mut problems);
    entry::check(&sregs, boot, layout, &images, &mut problems);
    if problems.is_empty() {
        let trap_page = layout.trap_page();
        Ok(InitialState { sregs, regs, images, trap_page, needs: needs(layout.paging()) })
    } else {
        Err(StateError { problems })
    }
}

/// Sets the control bits of the mode (SDM vol. 3, 9.8 and 9.9: the steps that a kernel would take).
///
/// - CR0: ET is fixed to 1. CD and NW, set at reset, are cleared: caches on, as firmware leaves them. PE and PG are
///   the mode itself; NE reports FPU errors as #MF; WP makes read-only pages read-only in ring 0 too.
/// - CR4: PAE, PSE and LA57 choose the paging scheme and its page sizes.
/// - EFER: LME and, since KVM takes the state as it is, LMA, which a CPU would set by itself. NXE only if a page
///   forbids execution: without it the XD bit is reserved.
/// - SSE: MP, so that a task switch by TS works as meant; OSFXSR, without which SSE instructions raise #UD; and
///   OSXMMEXCPT, so that SSE errors raise #XM. EM is clear after reset.
fn control_registers(sregs: &mut kvm_sregs, boot: &BootSpec, plan: Option<&PagingPlan>) {
    let mut cr0 = Cr0::ET;
    let mut cr4 = Cr4::empty();
    let mut efer = Efer::empty();
    if boot.mode.is_protected() {
        cr0 |= Cr0::PE | Cr0::NE;
    }
    if let Some(plan) = plan {
        cr0 |= Cr0::PG | Cr0::WP;
        match plan.scheme {
            Scheme::TwoLevel => cr4.set(Cr4::PSE, plan.largest == PageSize::Size4M),
            Scheme::Pae | Scheme::FourLevel => cr4 |= Cr4::PAE,
            Scheme::FiveLevel => cr4 |= Cr4::PAE | Cr4::LA57,
        }
        efer.set(Efer::NXE, forbids_execution(plan));
    }
    if boot.mode.is_long() {
        efer |= Efer::LME | Efer::LMA;
    }
    if boot.sse.unwrap_or(boot.mode.is_long()) {
        cr0 |= Cr0::MP;
        cr4 |= Cr4::OSFXSR | Cr4::OSXMMEXCPT;
    }
    (sregs.cr0, sregs.cr4, sregs.efer) = (cr0.bits(), cr4.bits(), efer.bits());
}

fn forbids_execution(plan: &PagingPlan) -> bool {
    plan.pieces.iter().any(|piece| !piece.access.executable)
}

/// Returns the features that the page tables use.
fn needs(plan: Option<&PagingPlan>) -> Vec<RequiredFeature> {
    let Some(plan) = plan else { return Vec::new() };
    let features = [
        (RequiredFeature::Nx, forbids_execution(plan)),
        (RequiredFeature::Page1G, build::uses(plan, PageSize::Size1G)),
        (RequiredFeature::La57, plan.scheme == Scheme::FiveLevel),
    ];
    features.into_iter().filter(|(_, used)| *used).map(|(feature, _)| feature).collect()
}

/// Returns the range of a part that this machine must have.
fn required(layout: &Layout, part: LayoutPart) -> Result<GpaRange, StateError> {
    layout.part(part).ok_or_else(|| StateProblem::LayoutMismatch(part).into())
}

/// Returns the image of a part, or an error if it is larger than the part's range.
fn image(range: GpaRange, part: LayoutPart, bytes: Vec<u8>) -> Result<TableImage, StateError> {
    if bytes.len() as u64 > range.size() {
        return Err(StateProblem::LayoutMismatch(part).into());
    }
    Ok(TableImage { gpa: range.start(), name: part.name(), bytes })
}

/// Reads from the images as from guest memory. Addresses between them are not memory.
impl ReadMemory for [TableImage] {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Option<()> {
        self.iter().find_map(|image| {
            let offset = usize::try_from(gpa.0.checked_sub(image.gpa.0)?).ok()?;
            let source = image.bytes.get(offset..)?.get(..bytes.len())?;
            bytes.copy_from_slice(source);
            Some(())
        })
    }
}

impl RequiredFeature {
    /// Returns the name of the feature in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nx => "NX",
            Self::Page1G => "1 GiB pages",
            Self::La57 => "LA57",
        }
    }
}
