//! Draws the memory map as boxes, high addresses at the top, and the ports below it.

use super::canvas::{Canvas, Style};
use super::{SvgColumn, heading};
use crate::explain::ascii_map::{MapBlock, blocks};
use crate::explain::hex;
use crate::explain::memory::{Kind, MapRow, Memory, Ports, Slot};

/// X position of the boxes. Addresses are on their left.
const BOX_X: f64 = 136.0;
const BOX_WIDTH: f64 = 310.0;
/// X position of the slot brackets.
const SLOT_X: f64 = 545.0;

/// Draws the map. Returns its lower end.
pub(super) fn memory(canvas: &mut Canvas, column: SvgColumn, y: f64, memory: &Memory) -> f64 {
    let mut y = heading(canvas, column, y, "Guest-physical memory", "not to scale") - 4.0;
    let mut boxes: Vec<(MapBlock<'_>, f64)> = Vec::new();
    for block in blocks(memory).into_iter().rev() {
        let height = height(block.row);
        boxes.push((block, y));
        y += height;
    }
    // Empty boxes first, so that the edge of a used box is on top.
    let empty = |block: &MapBlock<'_>| matches!(block.row.kind, Kind::Free | Kind::Hole);
    let (background, foreground): (Vec<_>, Vec<_>) = boxes.iter().partition(|(block, _)| empty(block));
    for (block, top) in background.into_iter().chain(foreground) {
        draw(canvas, column.x + BOX_X, *top, block);
    }
    let mut slot: Option<(usize, f64)> = None;
    for (block, top) in &boxes {
        if slot.map(|(number, _)| number) != block.row.slot {
            draw_slot_bracket(canvas, column, slot, *top, &memory.slots);
            slot = block.row.slot.map(|number| (number, *top));
        }
    }
    draw_slot_bracket(canvas, column, slot, y, &memory.slots);
    if let Some((lowest, _)) = boxes.last() {
        canvas.text_end(column.x + BOX_X - 8.0, y + 4.0, Style::Dim, &hex(lowest.start));
    }
    y + 14.0
}

/// Draws a box with name, size, and the address at its upper edge.
fn draw(canvas: &mut Canvas, x: f64, y: f64, block: &MapBlock<'_>) {
    let row = block.row;
    let height = height(row);
    let (fill, stroke) = colors(row.kind);
    canvas.rectangle((x, y), (BOX_WIDTH, height), fill, stroke, 0.0);
    canvas.text_end(x - 8.0, y + 4.0, Style::Dim, &hex(block.end));
    let middle = y + height / 2.0 + 4.0;
    if row.kind == Kind::Hole {
        // Text on the pattern would be hard to read.
        canvas.rectangle((x + 6.0, middle - 13.0), (42.0, 18.0), "#ffffff", "none", 3.0);
    }
    let style = if matches!(row.kind, Kind::Free | Kind::Hole) { Style::Faint } else { Style::Label };
    canvas.text(x + 12.0, middle, style, &style.cut(&row.what, BOX_WIDTH - 24.0));
    canvas.text(x + BOX_WIDTH + 10.0, middle, Style::Dim, &block.size());
}

/// Draws the bracket of a slot.
fn draw_slot_bracket(
    canvas: &mut Canvas,
    column: SvgColumn,
    slot: Option<(usize, f64)>,
    end: f64,
    slots: &[Slot],
) {
    let Some((number, start)) = slot else { return };
    let x = column.x + SLOT_X;
    let (start, end) = (start + 2.0, end - 2.0);
    canvas.path(&format!("M{:.1} {start:.1}H{x:.1}V{end:.1}H{:.1}", x - 6.0, x - 6.0), "#1a7f37", 1.5);
    let middle = f64::midpoint(start, end) + 4.0;
    canvas.text(x + 6.0, middle, Style::Faint, &format!("slot {number}"));
    if slots.iter().any(|slot| slot.number == number && slot.read_only) {
        canvas.text(x + 6.0, middle + 15.0, Style::Faint, "read-only");
    }
}

/// Returns the height of a box, which grows with the number of digits of its size.
fn height(row: &MapRow) -> f64 {
    let pages = row.size as f64 / 4096.0;
    let height = 26.0 + 4.0 * pages.max(1.0).log2();
    match row.kind {
        Kind::Hole => 58.0,
        Kind::Free => height.min(52.0),
        Kind::Guest
        | Kind::Table
        | Kind::PageTables
        | Kind::Stack
        | Kind::Landing
        | Kind::Kvm
        | Kind::Device => height.min(64.0),
    }
}

/// Returns fill and stroke.
const fn colors(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Free => ("#f6f8fa", "#d0d7de"),
        Kind::Hole => ("url(#hole)", "#d0d7de"),
        Kind::Guest => ("#c8ecd0", "#4ac26b"),
        Kind::Table => ("#ffe2bd", "#e8a04b"),
        Kind::PageTables => ("#fff3b8", "#d4b106"),
        Kind::Stack => ("#cfe3fb", "#6cb0f5"),
        Kind::Landing => ("#ffd9e4", "#e8829f"),
        Kind::Kvm => ("#e6dcfa", "#a98be3"),
        Kind::Device => ("#ffd5cc", "#ee8c78"),
    }
}

/// Draws the ports. Returns their lower end.
pub(super) fn ports(canvas: &mut Canvas, column: SvgColumn, y: f64, ports: &[Ports]) -> f64 {
    let mut y = heading(canvas, column, y, "I/O ports", "");
    if ports.is_empty() {
        canvas.text(column.x, y, Style::Faint, "no device has one");
        y += 18.0;
    }
    for port in ports {
        let range = if port.first == port.last {
            port.first.clone()
        } else {
            format!("{}..={}", port.first, port.last)
        };
        canvas.text(column.x, y, Style::Code, &range);
        canvas.text(column.x + BOX_X, y, Style::Label, &port.device);
        let does = Style::Prose.cut(&port.does, column.width - BOX_X - 130.0);
        canvas.text(column.x + BOX_X + 130.0, y, Style::Prose, &does);
        y += 19.0;
    }
    y
}
