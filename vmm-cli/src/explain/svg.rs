//! An explanation as one picture: the memory map and what leads into it on the left, the flow of calls on the right.
//!
//! The picture is SVG with text as text, so that it can be searched and scales. Browsers do not say how wide a text will be,
//! and fonts differ: widths are estimated from above and long texts are broken, so that nothing runs into its neighbour.
//!
//! | file | step |
//! |---|---|
//! | `canvas.rs` | shapes and text as SVG, escaped |
//! | `map.rs` | the memory map, the ports |
//! | `lookup.rs` | page tables, segments, general registers |
//! | `bits.rs` | the control registers |
//! | `flow.rs` | the calls, on the lines of their descriptors |

mod canvas;
mod control_bits;
mod flow;
mod memory_map;
mod tables;

use canvas::{Canvas, Style};

use super::Explanation;

/// Width of the picture.
const WIDTH: f64 = 1480.0;
const MARGIN: f64 = 40.0;
/// The left column.
const LEFT: SvgColumn = SvgColumn { x: MARGIN, width: 590.0 };
/// The right column.
const RIGHT: SvgColumn = SvgColumn { x: 690.0, width: WIDTH - MARGIN - 690.0 };
/// Space between two panels.
const GAP: f64 = 34.0;

/// A column of the picture.
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

/// The picture as the text of an SVG file.
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

/// Name and summary; gives where the columns begin.
fn title(canvas: &mut Canvas, explanation: &Explanation) -> f64 {
    let width = WIDTH - 2.0 * MARGIN;
    canvas.text(MARGIN, 58.0, Style::Title, &Style::Title.cut(&explanation.config, width));
    canvas.text(MARGIN, 84.0, Style::Subtitle, &Style::Subtitle.cut(&explanation.summary(), width));
    128.0
}

/// The heading of a panel; gives where its content begins.
fn heading(canvas: &mut Canvas, column: SvgColumn, y: f64, name: &str, note: &str) -> f64 {
    canvas.text(column.x, y, Style::Heading, name);
    let note = Style::Faint.cut(note, column.width - Style::Heading.width(name) - 20.0);
    canvas.text_end(column.end(), y, Style::Faint, &note);
    canvas.line((column.x, y + 9.0), (column.end(), y + 9.0), "#d0d7de", 1.0);
    y + 32.0
}
