//! `tss-address`: the three pages of `KVM_SET_TSS_ADDR` (api.rst, 4.35).
//!
//! The kernel checks only that they end below 4 GiB. It silently accepts an overlap with memory or a device, and the guest
//! then sees KVM's task state segment in its memory.

use vmm_core::Gpa;
use vmm_core::PAGE_SIZE;
use vmm_core::spec::MachineSpec;

use super::Context;
use super::ranges::{Range, overlap};
use crate::config::problem::ConfigProblem;

const LENGTH: u64 = 3 * PAGE_SIZE;
const LAST_START: u64 = (1 << 32) - LENGTH;

/// Lowers the address, and checks it against memory and devices.
pub(super) fn lower(cx: &mut Context<'_>, windows: &[Range]) -> Gpa {
    let given = cx.document.tss_address.as_ref();
    let address = given.map_or(MachineSpec::DEFAULT_TSS_ADDRESS.0, |at| at.value.0);
    let range = Range {
        name: "the TSS area".to_owned(),
        start: address,
        length: LENGTH,
        span: given.map(|at| at.span.clone()),
    };
    if let Some(at) = given {
        let problem = |message| ConfigProblem::new(&at.span, message);
        if address > LAST_START {
            cx.problem(
                problem(format!("three pages at {address:#x} do not fit below 4 GiB"))
                    .help(format!("the last address possible is {LAST_START:#x}")),
            );
            return Gpa(address);
        }
        if !address.is_multiple_of(PAGE_SIZE) {
            cx.problem(
                problem(format!("the TSS address {address:#x} is not a multiple of 4 KiB")).help(format!(
                    "the nearest such address below it is {:#x}",
                    address - address % PAGE_SIZE
                )),
            );
        }
    }
    let taken: Vec<Range> =
        cx.regions.list.iter().chain(windows).filter(|r| r.overlaps(&range)).cloned().collect();
    for other in &taken {
        cx.problem(overlap(&range, other).help("the three pages of `tss-address` need a hole below 4 GiB"));
    }
    Gpa(address)
}
