//! Tables whose columns are as wide as what stands in them.

use std::fmt::Write as _;

use super::table::escaped;

/// How tables are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// With the columns that are for `-o wide` only.
    pub wide: bool,
    pub headers: bool,
    pub colours: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { wide: false, headers: true, colours: false }
    }
}

/// Rows under a header. The text of cells may be anything: it is escaped.
pub(crate) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    look: Look,
    /// The header has been given out, and what came so far was so wide.
    begun: bool,
    widths: Vec<usize>,
}

struct Column {
    name: &'static str,
    /// Numbers stand at the right end of their column.
    right: bool,
    wide_only: bool,
}

impl Column {
    fn parse(text: &'static str) -> Self {
        let name = text.trim_start_matches(['+', '>']);
        let signs = &text[..text.len() - name.len()];
        Self { name, right: signs.contains('>'), wide_only: signs.contains('+') }
    }
}

impl Grid {
    /// A `>` before a column's name puts what stands in it to the right, a `+` keeps it for wide
    /// tables.
    pub fn new(columns: &[&'static str]) -> Self {
        Self::with(columns, Look::default())
    }

    /// As [`Grid::new`], to be shown so.
    pub fn with(columns: &[&'static str], look: Look) -> Self {
        let columns: Vec<_> = columns.iter().map(|text| Column::parse(text)).collect();
        let widths = vec![0; columns.len()];
        Self { columns, rows: Vec::new(), look, begun: false, widths }
    }

    /// A cell for each column, those for wide tables too.
    pub fn row(&mut self, cells: &[&dyn std::fmt::Display]) {
        self.rows.push(cells.iter().map(|cell| escaped(&cell.to_string())).collect());
    }

    /// Adds rows that were taken from a grid with the same columns.
    pub fn add(&mut self, rows: Vec<Vec<String>>) {
        self.rows.extend(rows);
    }

    /// How many rows have not been given out yet.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Takes the rows out as they would be shown, cell by cell.
    pub fn take_rows(&mut self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.rows)
    }

    /// One line per row, the header first; without a line's end after the last one.
    pub fn text(mut self) -> String {
        self.next_text().unwrap_or_default()
    }

    /// The lines of the rows since this was asked last, the header before the first ones; `None` if there
    /// is nothing to show. Columns stay as wide as they were.
    pub fn next_text(&mut self) -> Option<String> {
        let rows = self.take_rows();
        let header = (self.look.headers && !self.begun).then(|| self.header());
        self.begun = true;
        for row in header.iter().chain(&rows) {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = columns(cell).max(*width);
            }
        }
        let header = header.iter().map(|row| self.line(row, false));
        let lines: Vec<String> =
            header.chain(rows.iter().map(|row| self.line(row, true))).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn header(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name.to_owned()).collect()
    }

    fn line(&self, row: &[String], is_data: bool) -> String {
        let mut line = String::new();
        for ((cell, width), column) in row.iter().zip(&self.widths).zip(&self.columns) {
            if column.wide_only && !self.look.wide {
                continue;
            }
            let separator = if line.is_empty() { "" } else { "  " };
            let space = " ".repeat(width - columns(cell));
            let colour = (is_data && self.look.colours).then(|| colour_of(column.name, cell));
            let cell = match colour.flatten() {
                Some(colour) => format!("\x1b[{colour}m{cell}\x1b[0m"),
                None => cell.clone(),
            };
            // Writing to a String cannot fail.
            let _ = match column.right {
                true => write!(line, "{separator}{space}{cell}"),
                false => write!(line, "{separator}{cell}{space}"),
            };
        }
        line.trim_end().to_owned()
    }
}

/// How wide a text is on a terminal.
fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Terminals give two columns to most characters of East Asian scripts and to most pictures.
pub(crate) fn columns_of(c: char) -> usize {
    match u32::from(c) {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

const GREEN: u8 = 32;
const RED: u8 = 31;
const YELLOW: u8 = 33;
const BLUE: u8 = 34;

/// The colour of what says how something is, as terminals number them.
fn colour_of(column: &str, cell: &str) -> Option<u8> {
    if !["STATE", "HEALTH", "ROLE", "RESULT"].contains(&column) {
        return None;
    }
    state_colour(cell)
}

/// Of a state, role or result by its first word.
pub(crate) fn state_colour(text: &str) -> Option<u8> {
    let first = text.split([' ', ',', ':']).next().unwrap_or_default();
    match first {
        "up" | "ok" | "leader" | "held" | "registered" | "deregistered" | "released" => Some(GREEN),
        "suspect" | "orphaned" | "unreachable" | "gone" | "failed" | "expired" => Some(RED),
        "draining" | "moving" | "candidate" | "learner" => Some(YELLOW),
        "maintenance" => Some(BLUE),
        _ => None,
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

    #[test]
    fn columns_are_aligned_beside_wide_characters() {
        let mut grid = Grid::new(&["APP", "STATE"]);
        grid.row(&[&"应用", &"up"]);
        grid.row(&[&"pay", &"up"]);
        assert_eq!(grid.text(), "APP   STATE\n应用  up\npay   up");
    }

    #[test]
    fn a_table_that_comes_in_parts_has_one_header_and_stays_aligned() {
        let mut grid = Grid::new(&["ID", "STATE"]);
        grid.row(&[&"a-long-one", &"up"]);
        assert_eq!(grid.next_text().as_deref(), Some("ID          STATE\na-long-one  up"));
        grid.row(&[&"b", &"up"]);
        assert_eq!(grid.next_text().as_deref(), Some("b           up"));
        assert_eq!(grid.next_text(), None);
    }

    #[test]
    fn wide_columns_headers_and_colours_are_shown_as_they_are_wanted() {
        let row = |look| {
            let mut grid = Grid::with(&["ID", "STATE", "+>TTL"], look);
            grid.row(&[&"a", &"suspect", &"30s"]);
            grid.text()
        };
        let bare = Look { headers: false, ..Look::default() };
        assert_eq!(row(bare), "a  suspect");
        assert_eq!(row(Look { wide: true, ..bare }), "a  suspect  30s");
        assert_eq!(row(Look { colours: true, ..bare }), "a  \u{1b}[31msuspect\u{1b}[0m");
    }
}
