//! Draws an explanation as an SVG picture: memory map and tables on the left, KVM calls on the right.
//!
//! Text stays text, so that it can be searched and scaled. Its width depends on the viewer's fonts, so widths are
//! estimated from above and long texts are broken.
//!
//! | file | step |
//! |---|---|
//! | `canvas.rs` | shapes and text as SVG, escaped |
//! | `memory_map.rs` | memory map, ports |
//! | `tables.rs` | page tables, segments, general registers |
//! | `control_bits.rs` | control registers |
//! | `flow.rs` | calls, on the lines of their file descriptors |

mod canvas;
mod control_bits;
mod flow;
mod memory_map;
mod tables;

use super::Explanation;
use canvas::{Canvas, Style};

/// Width of the picture.
const WIDTH: f64 = 1480.0;
const MARGIN: f64 = 40.0;
/// Left column.
const LEFT: SvgColumn = SvgColumn { x: MARGIN, width: 590.0 };
/// Right column.
const RIGHT: SvgColumn = SvgColumn { x: 690.0, width: WIDTH - MARGIN - 690.0 };
/// Space between two panels.
const GAP: f64 = 34.0;

/// Column of the picture.
#[derive(Clone, Copy)]
struct SvgColumn {
    x: f64,
    width: f64,
}

impl SvgColumn {
    fn end(self) -> f64 {
        self.x + self.width
    }
}

/// Returns the text of an SVG file.
pub(crate) fn draw(explanation: &Explanation) -> String {
    let mut canvas = Canvas::default();
    let top = title(&mut canvas, explanation);

    let mut left = memory_map::memory(&mut canvas, LEFT, top, &explanation.memory);
    left = memory_map::ports(&mut canvas, LEFT, left + GAP, &explanation.memory.ports);
    left = tables::paging(&mut canvas, LEFT, left + GAP, explanation.paging.as_ref());
    left = tables::segments(&mut canvas, LEFT, left + GAP, &explanation.segments);
    left = control_bits::control_registers(&mut canvas, LEFT, left + GAP, &explanation.control_registers);
    left = tables::registers(&mut canvas, LEFT, left + GAP, &explanation.registers);
    let right = flow::draw(&mut canvas, RIGHT, top, &explanation.flow);

    let bottom = left.max(right) + GAP;
    canvas.text(MARGIN, bottom, Style::Faint, "drawn by vmm-cli explain");
    canvas.finish(WIDTH, bottom + MARGIN, &format!("{}: {}", explanation.config, explanation.summary()))
}

/// Draws name and summary. Returns the top of the columns.
fn title(canvas: &mut Canvas, explanation: &Explanation) -> f64 {
    let width = WIDTH - 2.0 * MARGIN;
    canvas.text(MARGIN, 58.0, Style::Title, &Style::Title.cut(&explanation.config, width));
    canvas.text(MARGIN, 84.0, Style::Subtitle, &Style::Subtitle.cut(&explanation.summary(), width));
    128.0
}

/// Draws the heading of a panel. Returns the top of its content.
fn heading(canvas: &mut Canvas, column: SvgColumn, y: f64, name: &str, note: &str) -> f64 {
    canvas.text(column.x, y, Style::Heading, name);
    let note = Style::Faint.cut(note, column.width - Style::Heading.width(name) - 20.0);
    canvas.text_end(column.end(), y, Style::Faint, &note);
    canvas.line((column.x, y + 9.0), (column.end(), y + 9.0), "#d0d7de", 1.0);
    y + 32.0
}
