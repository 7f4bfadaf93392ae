//! Where in the TOML file a problem of the layout comes from.

use vmm_cli::config::Config;
use vmm_cli::diagnostic::Diagnostic;
use vmm_core::firmware;
use vmm_core::layout::{LayoutError, LayoutPart, MapProblem, Problem};

/// One diagnostic for each problem, at the key that led to it.
pub(crate) fn locate(config: &Config, error: &LayoutError) -> Vec<Diagnostic> {
    let locate =
        |problem: &Problem| config.error_at(&key(problem), problem.to_string()).with_help(problem.help());
    error.problems.iter().map(locate).collect()
}

fn key(problem: &Problem) -> String {
    match problem {
        Problem::NoMemory | Problem::NoRoom { .. } => "memory".to_owned(),
        Problem::EmptyRegion { number } | Problem::RegionMisaligned { number, .. } => {
            format!("memory.{}", number - 1)
        }
        Problem::TssAddressMisaligned(_) | Problem::TssAddressTooHigh(_) => "tss-address".to_owned(),
        Problem::TooHigh { name, .. } => named(name),
        Problem::OutsideMemory { who, .. } if firmware::NAMES.contains(&who.name.as_str()) => {
            "memory".to_owned()
        }
        Problem::OutsideMemory { who, .. } | Problem::ReadOnly { who, .. } => named(&who.name),
        Problem::Overlap { first, second } => {
            // The one that the user can move is more telling than the guest, which is where it was linked.
            let keys = [named(&first.name), named(&second.name)];
            keys.iter().find(|key| *key != "guest").unwrap_or(&keys[0]).clone()
        }
        Problem::SharedPage { ours, .. } => named(&ours.name),
        Problem::Misaligned { part, .. } | Problem::NoSuchPart { part, .. } => of_part(*part).to_owned(),
        Problem::StackSize { .. } => "layout.stack-size".to_owned(),
        Problem::RealModeRing => "ring".to_owned(),
        Problem::TooManyTables { .. } => "paging".to_owned(),
        Problem::PageSize { .. } => "paging.page-size".to_owned(),
        Problem::FiveLevel(_) => "paging.five-level".to_owned(),
        Problem::Map(problem) => format!("paging.map.{}", map_number(problem) - 1),
    }
}

/// The key behind a name of the layout's; the guest's file for its segments, and for what is in their way and does not move:
/// the tables of a PC's firmware.
fn named(name: &str) -> String {
    if let Some(number) = name.strip_prefix("memory region ") {
        return format!("memory.{}", number.parse::<usize>().map_or(0, |number| number.saturating_sub(1)));
    }
    if let Some(device) = name.strip_prefix("device `").and_then(|rest| rest.strip_suffix('`')) {
        return format!("devices.{device}");
    }
    if name.starts_with("KVM's TSS") {
        return "tss-address".to_owned();
    }
    let parts =
        [LayoutPart::Gdt, LayoutPart::Idt, LayoutPart::Tss, LayoutPart::PageTables, LayoutPart::Stack];
    parts.into_iter().find(|part| part.name() == name).map_or("guest", of_part).to_owned()
}

const fn of_part(part: LayoutPart) -> &'static str {
    match part {
        LayoutPart::Gdt => "layout.gdt",
        LayoutPart::Idt => "layout.idt",
        LayoutPart::Tss => "layout.tss",
        LayoutPart::PageTables => "layout.page-tables",
        LayoutPart::Stack => "guest.stack",
        LayoutPart::Landing | LayoutPart::KernelStack => "layout",
    }
}

const fn map_number(problem: &MapProblem) -> usize {
    match problem {
        MapProblem::Misaligned { map, .. }
        | MapProblem::Empty { map }
        | MapProblem::Unaddressable { map, .. }
        | MapProblem::TooHigh { map, .. }
        | MapProblem::NothingThere { map, .. }
        | MapProblem::Overlap { second: map, .. }
        | MapProblem::NoExecuteDisable { map }
        | MapProblem::Hides { map, .. } => *map,
    }
}
