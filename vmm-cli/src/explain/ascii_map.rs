//! Draws the memory map with ASCII characters, high addresses at the top.
//!
//! Each range is a box, not to scale. The rest of a range's last page is drawn with it.

use super::hex;
use super::memory::{Kind, MapRow, Memory, size_words};

/// Box of the picture.
pub(super) struct MapBlock<'a> {
    /// Range that the box shows.
    pub(super) row: &'a MapRow,
    /// Start and end, extended over the rest of the last page.
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Returns the boxes of a map, lowest first.
pub(super) fn blocks(memory: &Memory) -> Vec<MapBlock<'_>> {
    let mut blocks: Vec<MapBlock<'_>> = Vec::new();
    for row in &memory.map {
        let mut block = MapBlock { row, start: row.start, end: row.end };
        let below = blocks.last_mut().filter(|below| below.row.slot == row.slot && below.fills_pages());
        if let Some(below) = below.filter(|_| row.kind == Kind::Free) {
            let border = row.start.checked_next_multiple_of(4096).unwrap_or(row.end).min(row.end);
            (below.end, block.start) = (border, border);
        }
        if block.start < block.end {
            blocks.push(block);
        }
    }
    blocks
}

impl MapBlock<'_> {
    /// Returns true if a range may be drawn in whole pages. Of a stack the exact end matters.
    fn fills_pages(&self) -> bool {
        match self.row.kind {
            Kind::Guest | Kind::Table | Kind::PageTables | Kind::Landing => true,
            Kind::Free | Kind::Hole | Kind::Stack | Kind::Kvm | Kind::Device => false,
        }
    }

    /// Returns the size to show: that of the range, for free memory that of the box.
    pub(super) fn size(&self) -> String {
        size_words(if self.row.kind == Kind::Free { self.end - self.start } else { self.row.size })
    }
}

/// Number of text lines in a box.
fn height(row: &MapRow) -> usize {
    match (row.kind, row.size) {
        (Kind::Hole, _) => 3,
        (_, size) if size >= 1 << 20 => 3,
        (Kind::Free, size) if size >= 64 << 10 => 2,
        (_, _) => 1,
    }
}

/// Draws the picture.
pub(super) fn draw(memory: &Memory) -> String {
    let blocks = blocks(memory);
    let width = blocks.iter().map(|block| block.row.what.chars().count()).max().unwrap_or(0).max(24);
    let mut lines = Vec::new();
    let mut above: Option<Option<usize>> = None;
    for block in blocks.iter().rev() {
        let row = block.row;
        // The edge of a slot is a double line.
        let line = if above.is_some_and(|slot| slot != row.slot) { '=' } else { '-' };
        let inside = above.flatten().is_some() && above == Some(row.slot);
        lines.push(edge(&hex(block.end), line, width, inside));
        let side = if row.kind == Kind::Hole { ':' } else { '|' };
        let height = height(row);
        for number in 0..height {
            let middle = number == height / 2;
            let name = if middle { row.what.as_str() } else { "" };
            let size = if middle { block.size() } else { String::new() };
            let slot = match row.slot {
                // The slot number is shown in its highest box.
                Some(slot) if middle && above != Some(row.slot) => format!(" | slot {slot}"),
                Some(_) => " |".to_owned(),
                None => String::new(),
            };
            lines.push(format!("{:>18} {side} {name:<width$} {side} {size:>12}{slot}", ""));
        }
        above = Some(row.slot);
    }
    if let Some(lowest) = blocks.first() {
        lines.push(edge(&hex(lowest.start), '-', width, false));
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Returns the line between two boxes, with the address there.
fn edge(address: &str, line: char, width: usize, inside_slot: bool) -> String {
    let bar: String = std::iter::repeat_n(line, width + 2).collect();
    let slot = if inside_slot { format!(" {:>12} |", "") } else { String::new() };
    format!("{address:>18} +{bar}+{slot}")
}
