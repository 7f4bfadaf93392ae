//! Draws the control registers: each set bit with its name and reason.

use super::canvas::{Canvas, Style};
use super::{SvgColumn, heading};
use crate::explain::registers::{ControlBitRow, ControlRegisterRow};

/// X position of the reasons.
const WHY_X: f64 = 104.0;

/// Draws all control registers. Returns their lower end.
pub(super) fn control_registers(
    canvas: &mut Canvas,
    column: SvgColumn,
    y: f64,
    registers: &[ControlRegisterRow],
) -> f64 {
    let mut y = heading(canvas, column, y, "Control registers", "the bits that are set, and why");
    for register in registers {
        canvas.text(column.x, y, Style::Strong, register.name);
        canvas.text(column.x + WHY_X, y, Style::Code, &register.value);
        canvas.text_end(column.end(), y, Style::Faint, &format!("after reset {}", register.after_reset));
        y += 22.0;
        let mut set = register.bits.iter().filter(|bit| bit.set).peekable();
        if set.peek().is_none() {
            canvas.text(column.x + WHY_X, y, Style::Faint, "no bit is set");
            y += 18.0;
        }
        for bit in set {
            y = draw_bit(canvas, column, y, bit);
        }
        y += 8.0;
    }
    y
}

fn draw_bit(canvas: &mut Canvas, column: SvgColumn, y: f64, bit: &ControlBitRow) -> f64 {
    let width = WHY_X - 12.0;
    canvas.rectangle((column.x, y - 13.0), (width, 18.0), "#0969da", "none", 4.0);
    canvas.text_middle(column.x + width / 2.0, y, Style::Inverse, bit.name);
    let why = bit.why.unwrap_or(bit.meaning);
    canvas.paragraph(column.x + WHY_X, y, column.width - WHY_X, Style::Prose, why) + 5.0
}
