//! `[layout]`: addresses of tables and stack. `vmm_core::layout` checks overlaps.

use vmm_core::spec::PinnedAddresses;
use vmm_core::{Gpa, PAGE_SIZE};

use super::Context;
use crate::config::problem::ConfigProblem;
use crate::config::schema::Spanned;
use crate::config::values::{Address, show_size};

/// Lowers the table, with the end of the stack from `[guest]`.
pub(super) fn lower(cx: &mut Context<'_>, stack_top: Option<Gpa>) -> PinnedAddresses {
    let Some(table) = &cx.document.layout else {
        return PinnedAddresses { stack_top, ..PinnedAddresses::default() };
    };
    let layout = &table.value;
    if let (Some(tables), Some(mode)) = (&layout.page_tables, cx.mode)
        && !mode.has_paging()
    {
        let problem = ConfigProblem::new(&tables.span, format!("{mode} mode has no page tables"));
        cx.problem(problem.help("leave `page-tables` out, or choose the mode paged, pae or long"));
    }
    let stack_size = layout.stack_size.as_ref().map(|at| {
        let size = at.value.0;
        let largest = cx.regions.list.iter().map(|region| region.length).max();
        if size == 0 {
            cx.problem(
                ConfigProblem::new(&at.span, "a stack of size 0").help("leave `stack-size` out for 64 KiB"),
            );
        } else if let Some(largest) = largest
            && size > largest
        {
            let message = format!("a stack of {} in memory of {}", show_size(size), show_size(largest));
            cx.problem(ConfigProblem::new(&at.span, message).help("give more memory or a smaller stack"));
        }
        size
    });
    PinnedAddresses {
        stack_top,
        stack_size,
        gdt: table_at(cx, &layout.gdt, "GDT", 8),
        idt: table_at(cx, &layout.idt, "IDT", 8),
        tss: table_at(cx, &layout.tss, "TSS", PAGE_SIZE),
        page_tables: table_at(cx, &layout.page_tables, "first page table", PAGE_SIZE),
    }
}

/// Checks that a table's address is aligned and in memory, and returns it.
fn table_at(cx: &mut Context<'_>, at: &Option<Spanned<Address>>, what: &str, alignment: u64) -> Option<Gpa> {
    let at = at.as_ref()?;
    let address = at.value.0;
    if !address.is_multiple_of(alignment) {
        let message = format!("the {what} at {address:#x} is not at a multiple of {alignment:#x}");
        let below = address - address % alignment;
        cx.problem(
            ConfigProblem::new(&at.span, message)
                .help(format!("the nearest such address below it is {below:#x}")),
        );
    }
    if cx.regions.is_unmapped(address) {
        let problem = ConfigProblem::new(&at.span, format!("no memory at {address:#x} for the {what}"));
        cx.problem(problem.help(cx.regions.describe()));
    }
    Some(Gpa(address))
}
