//! Draws the KVM calls from top to bottom. Each file descriptor is a line that starts at the call that returns it. Each
//! call is a point on the line of its descriptor.

use super::canvas::{Canvas, Style};
use super::{SvgColumn, heading};
use crate::explain::steps::{ArgumentField, CallRow};

/// File descriptors from left to right, with their colours.
const LINES: [(&str, &str); 4] =
    [("process", "#57606a"), ("/dev/kvm", "#0969da"), ("VM", "#1a7f37"), ("vCPU", "#bc4c00")];
/// Index and colour of guest memory, which has no descriptor: the process writes to it directly.
const MEMORY: (&str, &str) = ("memory", "#8250df");
/// Distance between lines.
const STEP: f64 = 30.0;
/// X positions of the first line and of texts, from the left of the column.
const FIRST: f64 = 12.0;
const TEXT: f64 = 140.0;

/// Draws the calls. Returns their lower end.
pub(super) fn draw(canvas: &mut Canvas, column: SvgColumn, y: f64, rows: &[CallRow]) -> f64 {
    let y = heading(canvas, column, y, "Flow of calls", "");
    let mut y = legend(canvas, column, y) + 30.0;
    // Measured first: the lines are drawn under the points.
    let tops: Vec<f64> = rows
        .iter()
        .map(|row| {
            let top = y;
            y = text(canvas, column, y, row) + 16.0;
            top
        })
        .collect();
    let end = y - 20.0;
    for (row, top) in rows.iter().zip(&tops) {
        let middle = top - 4.0;
        canvas.line((place(column, row.on).0, middle), (column.x + TEXT - 10.0, middle), "#d8dee4", 1.0);
    }
    lines(canvas, column, rows, &tops, end);
    for (row, top) in rows.iter().zip(&tops) {
        let (x, colour) = place(column, row.on);
        canvas.circle((x, top - 4.0), 11.5, colour);
        canvas.text_middle(x, *top, Style::Inverse, &row.number.to_string());
    }
    end
}

/// Returns the line of a descriptor and its colour.
fn place(column: SvgColumn, on: &str) -> (f64, &'static str) {
    let mut x = column.x + FIRST;
    for (name, colour) in LINES {
        if name == on {
            return (x, colour);
        }
        x += STEP;
    }
    (column.x + FIRST, MEMORY.1)
}

/// Draws the legend.
fn legend(canvas: &mut Canvas, column: SvgColumn, y: f64) -> f64 {
    let mut x = column.x;
    for (name, colour) in LINES.into_iter().chain([MEMORY]) {
        canvas.circle((x + 6.0, y - 4.0), 6.5, colour);
        let name = if name == MEMORY.0 { "guest memory" } else { name };
        canvas.text(x + 17.0, y, Style::Prose, name);
        x += 17.0 + Style::Prose.width(name) + 16.0;
    }
    for (direction, words) in [("in", "into the kernel"), ("out", "out of it")] {
        arrow(canvas, x, y, direction);
        canvas.text(x + 22.0, y, Style::Prose, words);
        x += 22.0 + Style::Prose.width(words) + 14.0;
    }
    y
}

/// Draws an arrow with its tip on the side that the argument goes to. The kernel is on the right.
fn arrow(canvas: &mut Canvas, x: f64, y: f64, direction: &str) {
    let (middle, end) = (y - 4.0, x + 14.0);
    let mut tip = |at: f64, back: f64| {
        canvas.path(
            &format!(
                "M{:.1} {:.1}L{at:.1} {middle:.1}L{:.1} {:.1}",
                at + back,
                middle - 3.5,
                at + back,
                middle + 3.5
            ),
            "#0969da",
            1.6,
        );
    };
    if direction.contains("in") {
        tip(end, -4.0);
    }
    if direction.contains("out") {
        tip(x, 4.0);
    }
    if direction != "none" {
        canvas.line((x, middle), (end, middle), "#0969da", 1.6);
    }
}

/// Draws the lines of the descriptors, each from the call that returned it.
fn lines(canvas: &mut Canvas, column: SvgColumn, rows: &[CallRow], tops: &[f64], end: f64) {
    let made_by = [None, Some("open(\"/dev/kvm\")"), Some("KVM_CREATE_VM"), Some("KVM_CREATE_VCPU")];
    for ((name, colour), call) in LINES.into_iter().zip(made_by) {
        let (x, _) = place(column, name);
        let Some(call) = call else {
            canvas.line((x, tops.first().copied().unwrap_or(end)), (x, end), colour, 2.5);
            continue;
        };
        let Some((row, top)) = rows.iter().zip(tops).find(|(row, _)| row.call == call) else { continue };
        // The line leaves that of its creator and bends into its own.
        let (from, y) = (place(column, row.on).0, top - 4.0);
        let bend = y + 32.0;
        let curve = format!("M{from:.1} {y:.1}C{x:.1} {y:.1} {x:.1} {y:.1} {x:.1} {bend:.1}V{end:.1}");
        canvas.path(&curve, colour, 2.5);
    }
}

/// Describes a call. Returns the base line below.
fn text(canvas: &mut Canvas, column: SvgColumn, y: f64, row: &CallRow) -> f64 {
    let x = column.x + TEXT;
    let width = column.end() - x;
    canvas.text(x, y, Style::Strong, row.call);
    canvas.text_end(column.end(), y, Style::Faint, &row.source);
    if row.times != "once" {
        let words = row.times.as_str();
        let at = x + Style::Strong.width(row.call) + 12.0;
        canvas.rectangle((at, y - 12.0), (Style::Inverse.width(words) + 14.0, 17.0), "#bc4c00", "none", 8.0);
        canvas.text(at + 7.0, y, Style::Inverse, words);
    }
    let mut y = y + 19.0;
    if row.structure.is_some() || !row.argument.is_empty() {
        arrow(canvas, x, y, row.direction);
        y = match row.structure {
            Some(name) => structure(canvas, (x + 24.0, y), width - 24.0, name, &row.argument),
            None => row.argument.iter().fold(y, |y, field| {
                canvas.paragraph(x + 24.0, y, width - 24.0, Style::Code, &field.value) + 2.0
            }),
        };
    }
    if !row.returns.is_empty() && row.returns != "0" {
        canvas.text(x + 4.0, y, Style::Dim, "=");
        y = canvas.paragraph(x + 24.0, y, width - 24.0, Style::Dim, &format!("returns {}", row.returns))
            + 2.0;
    }
    canvas.paragraph(x, y, width, Style::Prose, &row.why)
}

/// Formats a structure: its name, then its fields.
fn structure(canvas: &mut Canvas, at: (f64, f64), width: f64, name: &str, fields: &[ArgumentField]) -> f64 {
    let (left, mut y) = at;
    canvas.text(left, y, Style::Dim, &format!("struct {name}"));
    let mut x = left;
    y += 16.5;
    for ArgumentField { name, value } in fields {
        let name = name.unwrap_or("");
        let value = Style::Code.cut(value, width - Style::Dim.width(name) - 8.0);
        let needed = Style::Dim.width(name) + 7.0 + Style::Code.width(&value);
        if x > left && x + needed > left + width {
            x = left;
            y += 16.5;
        }
        canvas.text(x, y, Style::Dim, name);
        let gap = if name.is_empty() { 0.0 } else { Style::Dim.width(name) + 7.0 };
        canvas.text(x + gap, y, Style::Code, &value);
        x += needed + 18.0;
    }
    y + 18.5
}
