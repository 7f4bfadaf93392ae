//! Draws the page tables' ranges, segments, and general registers.

use vmm_core::spec::gpa_range::ByteSize;

use super::canvas::{Canvas, Style};
use super::{SvgColumn, heading};
use crate::explain::registers::GeneralRegisterRow;
use crate::explain::tables::{PagingSummary, SegmentSummary};

/// Maximum number of ranges in the picture. The text form has all.
const MAX_RANGES: usize = 14;

/// Draws the page tables. Returns their lower end.
pub(super) fn paging(canvas: &mut Canvas, column: SvgColumn, y: f64, paging: Option<&PagingSummary>) -> f64 {
    let Some(paging) = paging else {
        let y = heading(canvas, column, y, "Page tables", "");
        canvas.text(column.x, y, Style::Prose, "none: a linear address is the physical address");
        return y + 18.0;
    };
    let note = format!("{}, first table at {}, {} in all", paging.scheme, paging.root, ByteSize(paging.size));
    let mut y = heading(canvas, column, y, "Page tables", &note);
    let columns = [0.0, 350.0, 418.0, 500.0];
    for range in paging.ranges.iter().take(MAX_RANGES) {
        let cells = [
            format!("{}..={} \u{2192} {}", range.start, range.last, range.physical),
            ByteSize(range.size).to_string(),
            format!("{}\u{d7}{}", range.pages, range.page_size),
            range.access.replace("supervisor", "ring 0").replace("user", "ring 3"),
        ];
        let ends = columns.iter().skip(1).copied().chain([column.width]);
        for ((x, end), cell) in columns.iter().zip(ends).zip(&cells) {
            canvas.text(column.x + x, y, Style::Code, &Style::Code.cut(cell, end - x - 4.0));
        }
        y += 18.0;
    }
    let rest = paging.ranges.len().saturating_sub(MAX_RANGES);
    if rest > 0 {
        canvas.text(column.x, y, Style::Faint, &format!("and {rest} more ranges"));
        y += 18.0;
    }
    y += 6.0;
    canvas.text(column.x, y, Style::Label, "how the entry is found");
    y += 18.0;
    for line in &paging.entry_walk {
        canvas.text(column.x + 12.0, y, Style::Code, &Style::Code.cut(line, column.width - 12.0));
        y += 17.0;
    }
    y
}

/// Draws the general registers. Returns their lower end.
pub(super) fn registers(
    canvas: &mut Canvas,
    column: SvgColumn,
    y: f64,
    registers: &[GeneralRegisterRow],
) -> f64 {
    let mut y = heading(canvas, column, y, "At the first instruction", "all other general registers are 0");
    for register in registers {
        canvas.text(column.x, y, Style::Label, register.name);
        canvas.text(column.x + 104.0, y, Style::Code, &register.value);
        y = canvas.paragraph(column.x + 250.0, y, column.width - 250.0, Style::Prose, &register.why) + 3.0;
    }
    y
}

/// Draws the segment registers, equal ones in one line. Returns their lower end.
pub(super) fn segments(canvas: &mut Canvas, column: SvgColumn, y: f64, segments: &[SegmentSummary]) -> f64 {
    let mut y = heading(canvas, column, y, "Segments", "");
    let mut rest = segments;
    while let Some((first, others)) = rest.split_first() {
        let same = |other: &&SegmentSummary| other.holds == first.holds && other.selector == first.selector;
        let count = others.iter().take_while(same).count();
        let (alike, next) = others.split_at(count);
        rest = next;
        let names: Vec<&str> = [first].into_iter().chain(alike).map(|segment| segment.register).collect();
        canvas.text(column.x, y, Style::Label, &names.join(" "));
        canvas.text(column.x + 130.0, y, Style::Code, first.selector.as_deref().unwrap_or(""));
        y = canvas.paragraph(column.x + 186.0, y, column.width - 186.0, Style::Prose, &first.holds) + 4.0;
    }
    y
}
