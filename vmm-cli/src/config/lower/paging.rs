//! `[paging]`: page size, number of levels and mappings, checked against the mode.

use vmm_core::PAGE_SIZE;
use vmm_core::spec::mode::{Mode, PageSize, Ring};
use vmm_core::spec::{Mapping, PagePermissions, PagingSpec};
use vmm_core::{Gpa, Gva};

use super::memory::PHYSICAL_END;
use super::ranges::{Range, overlap};
use super::{Context, Key, or};
use crate::config::problem::ConfigProblem;
use crate::config::schema::{Map, Paging, Spanned};
use crate::config::source::Span;
use crate::config::values::{Size, show_size};

/// Lowers the table; returns the default if there is none.
pub(super) fn lower(cx: &mut Context<'_>) -> PagingSpec {
    let Some(table) = &cx.document.paging else { return PagingSpec::default() };
    if let Some(mode) = cx.mode
        && !mode.has_paging()
    {
        let message = format!("{mode} mode has no paging, but there is a table `[paging]`");
        cx.problem(
            ConfigProblem::new(&table.span, message)
                .help("leave it out, or choose the mode paged, pae or long"),
        );
        return PagingSpec::default();
    }
    let Paging { page_size, five_level, identity, map } = &table.value;
    let page_size = page_size.as_ref().and_then(|at| self::page_size(cx, at));
    if let Some(five_level) = five_level
        && five_level.value
        && cx.mode.is_some_and(|mode| !mode.is_long())
    {
        let message = format!("{} mode has no five-level paging", cx.mode_name());
        cx.problem(ConfigProblem::new(&five_level.span, message).help("only long mode has it"));
    }
    let five_level = or(five_level, false);
    let mut maps = Vec::new();
    let mut virtual_ranges: Vec<Range> = Vec::new();
    for (map, span, path) in map.iter().flat_map(|map| map.tables("paging.map")) {
        if let Some((mapping, range)) = mapping(cx, map, &span, &path, five_level) {
            if let Some(other) = virtual_ranges.iter().find(|other| other.overlaps(&range)) {
                cx.problem(overlap(&range, other).help("each virtual address is mapped once"));
            }
            virtual_ranges.push(range);
            maps.push(mapping);
        }
    }
    if let Some(identity) = identity
        && !identity.value
        && map.is_none()
        && !cx.problems.has_unread_inside("paging.map")
    {
        let problem = ConfigProblem::new(
            &identity.span,
            "nothing is mapped: no identity mapping and no `[[paging.map]]`",
        );
        cx.problem(problem.help("the guest needs at least its code and its stack mapped"));
    }
    PagingSpec { page_size, five_level, identity: or(identity, true), maps }
}

const ALL_SIZES: &[PageSize] = &[PageSize::Size4K, PageSize::Size2M, PageSize::Size4M, PageSize::Size1G];

fn page_size(cx: &mut Context<'_>, at: &Spanned<Size>) -> Option<PageSize> {
    let found = ALL_SIZES.iter().copied().find(|size| size.bytes() == at.value.0);
    let of_mode = cx.mode.map_or(ALL_SIZES, Mode::page_sizes);
    if found.is_some_and(|size| of_mode.contains(&size)) {
        return found;
    }
    let message = match found {
        Some(size) => format!("{} mode has no pages of {size}", cx.mode_name()),
        None => format!("there are no pages of {}", show_size(at.value.0)),
    };
    let names: Vec<String> = of_mode.iter().map(|size| format!("\"{size}\"")).collect();
    cx.problem(ConfigProblem::new(&at.span, message).help(format!("possible here: {}", names.join(", "))));
    None
}

fn mapping(
    cx: &mut Context<'_>,
    map: &Map,
    span: &Span,
    path: &str,
    five_level: bool,
) -> Option<(Mapping, Range)> {
    let key = |name, example| Key { path: format!("{path}.{name}"), name, example };
    let gva = cx.required(&map.gva, span, &key("gva", "gva = \"0xffff_ffff_8000_0000\""));
    let gpa = cx.required(&map.gpa, span, &key("gpa", "gpa = 0"));
    let size = cx.required(&map.size, span, &key("size", "size = \"2MiB\""));
    let (gva, gpa, size) = (gva?, gpa?, size?);

    for (name, value, at) in
        [("gva", gva.value.0, &gva.span), ("gpa", gpa.value.0, &gpa.span), ("size", size.value.0, &size.span)]
    {
        if !value.is_multiple_of(PAGE_SIZE) {
            cx.problem(ConfigProblem::new(
                at,
                format!("`{name}` is {value:#x}, which is not a multiple of 4 KiB"),
            ));
        }
    }
    let length = size.value.0;
    if length == 0 {
        cx.problem(ConfigProblem::new(&size.span, "a mapping of size 0"));
        return None;
    }
    let range = Range {
        name: path.replace("paging.map.", "mapping "),
        start: gva.value.0,
        length,
        span: Some(gva.span.clone()),
    };
    check_virtual(cx, &range, &gva.span, five_level);
    check_physical(cx, gpa.value.0, length, &gpa.span);
    if let (Some(executable), Some(Mode::Paged)) = (&map.executable, cx.mode)
        && !executable.value
    {
        let problem = ConfigProblem::new(
            &executable.span,
            "paged mode cannot forbid execution: its entries have no XD bit",
        );
        cx.problem(problem.help("leave `executable` out, or choose the mode pae or long"));
    }
    let access = PagePermissions {
        writable: or(&map.writable, true),
        user: or(&map.user, cx.ring == Ring::User),
        executable: or(&map.executable, true),
    };
    Some((Mapping { gva: Gva(gva.value.0), gpa: Gpa(gpa.value.0), size: length, access }, range))
}

/// Checks that virtual addresses have 32 bits, or in long mode are canonical: 48 bits (57 with five levels), and all upper
/// bits equal to the highest of these (SDM vol. 1, 3.3.7.1).
fn check_virtual(cx: &mut Context<'_>, range: &Range, span: &Span, five_level: bool) {
    let Some(mode) = cx.mode else { return };
    let bits = if five_level { 57 } else { 48 };
    let fits = |last| {
        if mode.is_long() { one_half(range.start, last, bits) } else { last <= u64::from(u32::MAX) }
    };
    if !range.last().is_some_and(fits) {
        let problem = ConfigProblem::new(
            span,
            format!("{} from {:#x} leaves the virtual address space", show_size(range.length), range.start),
        );
        cx.problem(if mode.is_long() {
            problem.help(format!(
                "addresses of {bits} bits: up to {:#x}, or from {:#x} on",
                canonical_half(bits).saturating_sub(1),
                !canonical_half(bits).saturating_sub(1)
            ))
        } else {
            problem.help(format!("{mode} mode has addresses of 32 bits"))
        });
    }
}

/// Returns true if both addresses are canonical and in the same half of the address space.
fn one_half(first: u64, last: u64, bits: u32) -> bool {
    let half = canonical_half(bits);
    last < half || first >= !half.saturating_sub(1)
}

const fn canonical_half(bits: u32) -> u64 {
    1 << (bits - 1)
}

/// Returns true if `address` is canonical.
pub(super) fn is_canonical(address: u64, five_level: bool) -> bool {
    one_half(address, address, if five_level { 57 } else { 48 })
}

/// Checks that page table entries can hold the physical addresses: 32 bits with two levels (without PSE-36), else 52.
fn check_physical(cx: &mut Context<'_>, gpa: u64, length: u64, span: &Span) {
    let end = if cx.mode == Some(Mode::Paged) { 1 << 32 } else { PHYSICAL_END };
    if gpa.checked_add(length).is_none_or(|mapped_end| mapped_end > end) {
        let message = format!("{} from {gpa:#x} leaves the physical address space", show_size(length));
        cx.problem(
            ConfigProblem::new(span, message)
                .help(format!("page table entries of this mode end at {end:#x}")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_addresses() {
        for (address, four, five) in [
            (0, true, true),
            (0x7fff_ffff_ffff, true, true),
            (0x8000_0000_0000, false, true),
            (0xff_ffff_ffff_ffff, false, true),
            (0x100_0000_0000_0000, false, false),
            (0xfeff_ffff_ffff_ffff, false, false),
            (0xff00_0000_0000_0000, false, true),
            (0xffff_7fff_ffff_ffff, false, true),
            (0xffff_8000_0000_0000, true, true),
            (u64::MAX, true, true),
        ] {
            assert_eq!(is_canonical(address, false), four, "{address:#x}");
            assert_eq!(is_canonical(address, true), five, "{address:#x}");
        }
        assert!(!one_half(0x7fff_ffff_f000, 0xffff_8000_0000_0fff, 48));
    }
}
