//! Tables whose columns are as wide as what stands in them.

use std::fmt::Write as _;

use super::table::escaped;

/// Rows under a header. The text of cells may be anything: it is escaped.
pub(crate) struct Grid {
    header: Vec<&'static str>,
    /// Numbers stand at the right end of their column.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// A `>` before a column's name puts what stands in it to the right.
    pub fn new(columns: &[&'static str]) -> Self {
        Self {
            right: columns.iter().map(|name| name.starts_with('>')).collect(),
            header: columns.iter().map(|name| name.trim_start_matches('>')).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: &[&dyn std::fmt::Display]) {
        self.rows.push(cells.iter().map(|cell| escaped(&cell.to_string())).collect());
    }

    /// One line per row, the header first; without a line's end after the last one.
    pub fn text(&self) -> String {
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        let all = || std::iter::once(&header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| all().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let lines: Vec<String> = all().map(|row| self.line(row, &widths)).collect();
        lines.join("\n")
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(widths).zip(&self.right) {
            let separator = if line.is_empty() { "" } else { "  " };
            // Writing to a String cannot fail.
            let _ = match right {
                true => write!(line, "{separator}{cell:>width$}"),
                false => write!(line, "{separator}{cell:<width$}"),
            };
        }
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_reaches_the_terminal_as_it_is() {
        let mut grid = Grid::new(&["WORKER", ">SHARDS", "ZONE"]);
        grid.row(&[&"f1", &7, &"a"]);
        grid.row(&[&"fetcher\u{1b}", &1200, &""]);
        let lines =
            ["WORKER         SHARDS  ZONE", "f1                  7  a", r"fetcher\u{1b}    1200"];
        assert_eq!(grid.text(), lines.join("\n"));
    }
}
