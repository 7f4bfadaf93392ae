//! Formats tables: columns as wide as their widest cell, two spaces apart.

/// Alignment of the cells of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// All columns to the left.
    Left,
    /// The first column to the left, the others to the right: for numbers.
    Numbers,
}

/// Returns a line for each row, without line breaks and without trailing spaces.
pub(crate) fn lines<R: AsRef<[String]>>(rows: &[R], align: Align) -> Vec<String> {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = cell.len().max(*width);
        }
    }
    let line = |row: &R| {
        let cells = row.as_ref().iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 || align == Align::Left {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Appends a table with all columns to the left to `text`.
pub(crate) fn append<R: AsRef<[String]>>(text: &mut String, rows: &[R]) {
    for line in lines(rows, Align::Left) {
        text.push_str(&line);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "12", ""], ["long", "3", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(lines(&rows, Align::Left), ["a     12", "long  3   x"]);
        assert_eq!(lines(&rows, Align::Numbers), ["a     12", "long   3  x"]);
        let mut text = String::new();
        append(&mut text, &rows);
        assert_eq!(text, "a     12\nlong  3   x\n");
    }
}
