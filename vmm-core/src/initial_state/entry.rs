//! Checks that the CPU can fetch the first instruction, so that an impossible entry is found before the run.
//!
//! With paging, the entry is translated by the tables that have just been built, with the permissions of the guest's ring.

use kvm_sys_wrap::bindings::kvm_sregs;

use super::{StateProblem, TableImage, real};
use crate::layout::Layout;
use crate::paging::walk::{WalkEnd, Walker};
use crate::spec::mode::Ring;
use crate::spec::{BootSpec, EntryPoint};
use crate::{Gpa, Gva};

/// Adds all problems with the entry to `problems`.
pub(super) fn check(
    sregs: &kvm_sregs,
    boot: &BootSpec,
    layout: &Layout,
    images: &[TableImage],
    problems: &mut Vec<StateProblem>,
) {
    let gva = match boot.entry {
        entry if !boot.mode.is_protected() => match real::code_address(entry) {
            Some((cs, ip)) => Gva(u64::from(cs) * 16 + u64::from(ip)),
            None => return problems.push(StateProblem::EntryTooHigh(boot.entry)),
        },
        // With paging, the walk below finds addresses out of reach.
        EntryPoint::Address(gva) if !boot.mode.has_paging() && gva.0 >= boot.mode.address_limit() => {
            return problems.push(StateProblem::EntryTooHigh(boot.entry));
        }
        EntryPoint::Address(gva) => gva,
        EntryPoint::Segmented { .. } => {
            let mode = boot.mode;
            return problems.push(StateProblem::EntrySegmented { entry: boot.entry, mode });
        }
    };
    let walk = Walker::from_sregs(sregs).walk(images, gva);
    match walk.end {
        WalkEnd::Mapped(to) if !layout.is_memory(to.gpa) => {
            problems.push(StateProblem::EntryNoMemory { gva, gpa: to.gpa });
        }
        WalkEnd::Mapped(to) if boot.ring == Ring::User && !to.access.user => {
            problems.push(StateProblem::EntrySupervisor { gva, owner: owner(layout, to.gpa) });
        }
        WalkEnd::Mapped(to) if !to.access.executable => problems.push(StateProblem::EntryNotExecutable(gva)),
        WalkEnd::Mapped(_) => {}
        WalkEnd::Unaddressable if !boot.mode.is_long() => {
            problems.push(StateProblem::EntryTooHigh(boot.entry));
        }
        WalkEnd::NotPresent | WalkEnd::Reserved(_) | WalkEnd::NoMemory(_) | WalkEnd::Unaddressable => {
            problems.push(StateProblem::EntryNotMapped(gva));
        }
    }
}

/// Returns the owner of the page that contains `gpa`, for a message.
fn owner(layout: &Layout, gpa: Gpa) -> String {
    let page = |address: Gpa| address.0 >> 12;
    let here = layout.ranges().iter().find(|placed| {
        let pages = placed.range.to_pages();
        page(pages.start()) <= page(gpa) && page(gpa) < page(pages.end())
    });
    here.map_or_else(|| "ring 0".to_owned(), |placed| placed.owner.to_string())
}
