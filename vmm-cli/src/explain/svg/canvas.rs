//! Shapes and text as SVG. All text is escaped here.

use std::fmt::Write as _;

use crate::wrap::wrap;

/// Text style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Name of the configuration.
    Title,
    /// Summary of the machine.
    Subtitle,
    /// Name of a panel.
    Heading,
    /// Name of a call or a register.
    Strong,
    /// Value.
    Code,
    /// Less important value.
    Dim,
    /// Sentence.
    Prose,
    /// Name of a box.
    Label,
    /// Remark.
    Faint,
    /// White on a colour.
    Inverse,
}

impl Style {
    const ALL: [Self; 10] = [
        Self::Title,
        Self::Subtitle,
        Self::Heading,
        Self::Strong,
        Self::Code,
        Self::Dim,
        Self::Prose,
        Self::Label,
        Self::Faint,
        Self::Inverse,
    ];

    /// Returns class name, size in pixels, true for monospace, weight, colour.
    const fn attributes(self) -> (&'static str, f64, bool, u32, &'static str) {
        match self {
            Self::Title => ("title", 26.0, false, 700, "#1f2328"),
            Self::Subtitle => ("subtitle", 15.0, false, 400, "#57606a"),
            Self::Heading => ("heading", 15.0, false, 700, "#1f2328"),
            Self::Strong => ("strong", 13.5, true, 700, "#1f2328"),
            Self::Code => ("code", 11.5, true, 400, "#1f2328"),
            Self::Dim => ("dim", 11.5, true, 400, "#6e7781"),
            Self::Prose => ("prose", 12.0, false, 400, "#424a53"),
            Self::Label => ("label", 12.0, false, 600, "#1f2328"),
            Self::Faint => ("faint", 11.5, false, 400, "#6e7781"),
            Self::Inverse => ("inverse", 10.5, true, 700, "#ffffff"),
        }
    }

    /// Returns an upper estimate of the width of a text.
    pub(super) fn width(self, text: &str) -> f64 {
        let (_, size, monospaced, weight, _) = self.attributes();
        // DejaVu is the widest of the fonts below.
        let factor = match (monospaced, weight > 500) {
            (true, _) => 0.605,
            (false, false) => 0.56,
            (false, true) => 0.66,
        };
        text.chars().count() as f64 * size * factor
    }

    /// Cuts a text to the given width.
    pub(super) fn cut(self, text: &str, width: f64) -> String {
        if self.width(text) <= width {
            return text.to_owned();
        }
        let mut cut = String::new();
        for letter in text.chars() {
            if self.width(&cut) + self.width("..") > width {
                break;
            }
            cut.push(letter);
        }
        cut.pop();
        format!("{}\u{2026}", cut.trim_end())
    }

    /// Breaks a text into lines of the given width.
    pub(super) fn lines(self, text: &str, width: f64) -> Vec<String> {
        let fits = width / self.width("x").max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a width in letters, never negative and far below the limits of any integer"
        )]
        let letters = fits.max(1.0) as usize;
        wrap(text, letters).into_iter().map(|line| self.cut(&line, width)).collect()
    }
}

/// SVG text so far.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    body: String,
}

impl Canvas {
    /// Draws text that starts at a point of its base line.
    pub(super) fn text(&mut self, x: f64, y: f64, style: Style, text: &str) {
        self.anchored(x, y, style, "start", text);
    }

    /// Draws text that ends at a point of its base line.
    pub(super) fn text_end(&mut self, x: f64, y: f64, style: Style, text: &str) {
        self.anchored(x, y, style, "end", text);
    }

    /// Draws text centered on a point of its base line.
    pub(super) fn text_middle(&mut self, x: f64, y: f64, style: Style, text: &str) {
        self.anchored(x, y, style, "middle", text);
    }

    fn anchored(&mut self, x: f64, y: f64, style: Style, anchor: &str, text: &str) {
        let (class, ..) = style.attributes();
        let anchor = if anchor == "start" { String::new() } else { format!(" text-anchor=\"{anchor}\"") };
        self.write(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"{anchor}>{}</text>",
            escaped(text)
        ));
    }

    /// Draws text in lines from a base line on. Returns the base line below.
    pub(super) fn paragraph(&mut self, x: f64, y: f64, width: f64, style: Style, text: &str) -> f64 {
        let mut y = y;
        for line in style.lines(text, width) {
            self.text(x, y, style, &line);
            y += style.attributes().1 * 1.38;
        }
        y
    }

    /// Draws a rectangle at its upper left corner, with fill and stroke.
    pub(super) fn rectangle(
        &mut self,
        corner: (f64, f64),
        size: (f64, f64),
        fill: &str,
        stroke: &str,
        radius: f64,
    ) {
        let ((x, y), (width, height)) = (corner, size);
        self.write(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{radius}\" fill=\"{fill}\" \
             stroke=\"{stroke}\"/>"
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        self.path(&format!("M{:.1} {:.1}L{:.1} {:.1}", from.0, from.1, to.0, to.1), stroke, width);
    }

    /// Draws a line along path commands.
    pub(super) fn path(&mut self, commands: &str, stroke: &str, width: f64) {
        self.write(format_args!(
            "<path d=\"{commands}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\" stroke-linecap=\"round\" \
             stroke-linejoin=\"round\"/>"
        ));
    }

    pub(super) fn circle(&mut self, centre: (f64, f64), radius: f64, fill: &str) {
        let (x, y) = centre;
        self.write(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{fill}\" stroke=\"#ffffff\" stroke-width=\"2\"/>"
        ));
    }

    fn write(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    /// Returns the whole file. `title` is for screen readers.
    pub(super) fn finish(self, width: f64, height: f64, title: &str) -> String {
        let mut styles = String::new();
        for style in Style::ALL {
            let (class, size, monospaced, weight, colour) = style.attributes();
            let family = if monospaced {
                "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
            } else {
                "'DejaVu Sans', 'Segoe UI', Helvetica, Arial, sans-serif"
            };
            let _ = writeln!(styles, ".{class} {{ font: {weight} {size}px {family}; fill: {colour}; }}");
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 \
             {width:.0} {height:.0}\" role=\"img\">\n<title>{}</title>\n<style>\n{styles}</style>\n<defs><pattern \
             id=\"hole\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect \
             width=\"8\" height=\"8\" fill=\"#ffffff\"/><rect width=\"1.5\" height=\"8\" \
             fill=\"#d8dee4\"/></pattern></defs>\n<rect width=\"100%\" height=\"100%\" \
             fill=\"#ffffff\"/>\n{}</svg>\n",
            escaped(title),
            self.body
        )
    }
}

/// Escapes text: no markup, and no characters that XML 1.0 forbids.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            letter if letter < ' ' || matches!(letter, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_become_markup() {
        let mut canvas = Canvas::default();
        canvas.text(1.0, 2.0, Style::Code, "</text><script>alert('x') & \"y\"\u{1}\n");
        let file = canvas.finish(10.0, 10.0, "<a>");
        assert!(
            file.contains(
                "&lt;/text&gt;&lt;script&gt;alert(&#39;x&#39;) &amp; &quot;y&quot;\u{fffd} </text>"
            )
        );
        assert!(file.contains("<title>&lt;a&gt;</title>") && !file.contains("<script"));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_marked() {
        assert_eq!(Style::Code.cut("short", 100.0), "short");
        let cut = Style::Code.cut(&"long ".repeat(20), 100.0);
        assert!(cut.ends_with('\u{2026}') && Style::Code.width(&cut) <= 100.0, "{cut}");
        let lines = Style::Prose.lines(&"word ".repeat(40), 200.0);
        assert!(lines.len() > 3 && lines.iter().all(|line| Style::Prose.width(line) <= 200.0));
    }
}
