//! Finds the key in the TOML file that a layout problem comes from.

use vmm_core::layout::{LayoutEntry, LayoutError, LayoutPart, LayoutProblem, MappingProblem, RangeOwner};

use crate::config::Config;
use crate::diagnostic::Diagnostic;

/// Returns a diagnostic for each problem, at the key that led to it.
pub(crate) fn locate(config: &Config, error: &LayoutError) -> Vec<Diagnostic> {
    let locate = |problem: &LayoutProblem| {
        let message = if let LayoutProblem::Map(mapping) = problem {
            mapping.message("paging.map")
        } else {
            problem.to_string()
        };
        config.error_at(&key(problem), message).with_help(Some(crate::help::for_layout(problem)))
    };
    error.problems.iter().map(locate).collect()
}

fn key(problem: &LayoutProblem) -> String {
    match problem {
        LayoutProblem::NoMemory | LayoutProblem::NoRoom { .. } => "memory".to_owned(),
        LayoutProblem::EmptyRegion { number } | LayoutProblem::RegionMisaligned { number, .. } => {
            format!("memory.{}", number - 1)
        }
        LayoutProblem::TssAddressMisaligned(_) | LayoutProblem::TssAddressTooHigh(_) => {
            "tss-address".to_owned()
        }
        LayoutProblem::TooHigh { owner, .. } => owner_key(owner),
        LayoutProblem::OutsideMemory {
            entry: LayoutEntry { owner: RangeOwner::Firmware(_), .. }, ..
        } => "memory".to_owned(),
        LayoutProblem::OutsideMemory { entry, .. } | LayoutProblem::ReadOnly { entry, .. } => {
            owner_key(&entry.owner)
        }
        LayoutProblem::Overlap { first, second } => {
            // The guest's file lies where it was linked: point at the other one, which the user can move.
            let keys = [owner_key(&first.owner), owner_key(&second.owner)];
            keys.iter().find(|key| *key != "guest").unwrap_or(&keys[0]).clone()
        }
        LayoutProblem::SharedPage { ours, .. } => owner_key(&ours.owner),
        LayoutProblem::Misaligned { part, .. } | LayoutProblem::NoSuchPart { part, .. } => {
            part_key(*part).to_owned()
        }
        LayoutProblem::StackSize { .. } => "layout.stack-size".to_owned(),
        LayoutProblem::RealModeRing => "ring".to_owned(),
        LayoutProblem::TooManyTables { .. } => "paging".to_owned(),
        LayoutProblem::PageSize { .. } => "paging.page-size".to_owned(),
        LayoutProblem::FiveLevel(_) => "paging.five-level".to_owned(),
        LayoutProblem::Map(problem) => format!("paging.map.{}", map_number(problem) - 1),
    }
}

/// Returns the key that decides where a range lies. For the guest's files, and for ranges that cannot be moved, that is the
/// guest's file.
fn owner_key(owner: &RangeOwner) -> String {
    match owner {
        RangeOwner::Memory(number) => format!("memory.{}", number.saturating_sub(1)),
        RangeOwner::Device(name) => format!("devices.{name}"),
        RangeOwner::TssPages => "tss-address".to_owned(),
        RangeOwner::Part(part) => part_key(*part).to_owned(),
        RangeOwner::Guest(_) | RangeOwner::Firmware(_) | RangeOwner::IdentityMap => "guest".to_owned(),
    }
}

const fn part_key(part: LayoutPart) -> &'static str {
    match part {
        LayoutPart::Gdt => "layout.gdt",
        LayoutPart::Idt => "layout.idt",
        LayoutPart::Tss => "layout.tss",
        LayoutPart::PageTables => "layout.page-tables",
        LayoutPart::Stack => "guest.stack",
        LayoutPart::TrapPage | LayoutPart::KernelStack => "layout",
    }
}

const fn map_number(problem: &MappingProblem) -> usize {
    match problem {
        MappingProblem::Misaligned { map, .. }
        | MappingProblem::Empty { map }
        | MappingProblem::Unaddressable { map, .. }
        | MappingProblem::TooHigh { map, .. }
        | MappingProblem::NothingThere { map, .. }
        | MappingProblem::Overlap { second: map, .. }
        | MappingProblem::NoExecuteDisable { map }
        | MappingProblem::Hides { map, .. } => *map,
    }
}
