//! Tables for people: aligned Markdown, numbers of about three digits, and where a document keeps them.

use std::fmt::Write as _;

/// A new document called `title` with `text`, or `before` with it between its marks; `None` when it has none.
pub fn document(marks: (&str, &str), title: &str, before: Option<&str>, text: &str) -> Option<String> {
    let (begin, end) = marks;
    let (before, after) = match before {
        Some(document) => {
            let (before, rest) = document.split_once(begin)?;
            let (_, after) = rest.split_once(end)?;
            (before.to_owned(), after)
        }
        None => (format!("# {title}\n\n"), ""),
    };
    Some(format!("{before}{begin}\n{text}\n{end}{after}"))
}

/// A Markdown table whose columns are aligned; the first two hold words, the others numbers.
pub fn table<const N: usize>(text: &mut String, columns: &[&str; N], rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([columns[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: [&str; N]| {
        for (column, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
            let _ = match column < 2 {
                true => write!(text, "| {cell:<width$} "),
                false => write!(text, "| {cell:>width$} "),
            };
        }
        text.push_str("|\n");
    };
    line(*columns);
    let rules: [String; N] = std::array::from_fn(|column| match column < 2 {
        true => "-".repeat(widths[column]),
        false => format!("{}:", "-".repeat(widths[column].saturating_sub(1))),
    });
    line(rules.each_ref().map(String::as_str));
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
}

/// With a comma between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in microseconds, with a unit that suits it.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{} µs", digits(us)),
        us if us < 1e6 => format!("{} ms", digits(us / 1e3)),
        us => format!("{} s", digits(us / 1e6)),
    }
}

/// Bytes, in millions.
pub fn megabytes(bytes: u64) -> String {
    format!("{} MB", digits(bytes as f64 / 1e6))
}

/// About three digits.
pub fn digits(number: f64) -> String {
    match number.abs() {
        large if large >= 99.95 => count(number.round() as u64),
        medium if medium >= 9.995 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Operations per second, whole ones where there are many.
pub fn rate(per_second: f64) -> String {
    if per_second < 100.0 { digits(per_second) } else { count(per_second.round() as u64) }
}
