//! Results as a table, as JSON and as a chart.

use std::fmt::Write;
use std::path::Path;

use super::Row;
use crate::error::{Result, file, json};

/// Prints the rows, and writes `latest.json` and `latest.svg`. Rows that were
/// not measured this time stay as they were.
pub(super) fn write(mut rows: Vec<Row>, dir: &Path) -> Result<()> {
    println!("{}", table(&rows));
    std::fs::create_dir_all(dir).map_err(file(dir))?;
    if let Ok(text) = std::fs::read(dir.join("latest.json")) {
        let old: Vec<Row> = serde_json::from_slice(&text).map_err(json("latest.json"))?;
        for row in old {
            if !rows.iter().any(|new| new.key == row.key) {
                rows.push(row);
            }
        }
    }
    let rows = &rows[..];
    let text = serde_json::to_string_pretty(rows).map_err(json("the results"))?;
    for (name, text) in [("latest.json", text + "\n"), ("latest.svg", chart(rows))] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(file(&path))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// The median that the others are ratios of.
fn ours(row: &Row) -> Option<f64> {
    row.entries.iter().find(|e| e.tool.starts_with("sampan")).map(|e| e.median_ms)
}

fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(out, "\n{} (median of {} rounds)", row.title, row.runs);
        let unit = ours(row).unwrap_or(1.0);
        for entry in &row.entries {
            let shown = |what: &str, number: Option<f64>| {
                number.map_or_else(String::new, |number| format!("  {what} {number:.0}"))
            };
            let memory = [
                shown("MB", entry.resident_mb),
                shown("bytes", entry.bytes),
                shown("server: ms", entry.server_cpu_ms),
                shown("server: MB", entry.server_mb),
            ]
            .concat();
            let _ = writeln!(
                out,
                "  {:<24} {:>8.2} of sampan   {:>9.2} ms  ({:.2} to {:.2}){memory}",
                entry.tool,
                entry.median_ms / unit,
                entry.median_ms,
                entry.min_ms,
                entry.max_ms,
            );
        }
        for left in &row.left_out {
            let _ = writeln!(out, "  {:<24} left out: {}", left.tool, left.why);
        }
        for bar in &row.bars {
            let word = if bar.reached { "reached" } else { "MISSED" };
            let _ = writeln!(out, "  {word}: {} (measured {:.2})", bar.bar, bar.measured);
        }
    }
    out
}

const WIDTH: f64 = 900.0;
const LABEL: f64 = 210.0;
const LINE: f64 = 22.0;

/// One bar per tool, as long as its median's logarithm above a tenth of
/// sampan's, labelled with the ratio.
fn chart(rows: &[Row]) -> String {
    let mut body = String::new();
    let mut y = 10.0;
    for row in rows {
        let unit = ours(row).unwrap_or(1.0);
        let ratio = |ms: f64| (ms / unit).max(0.1);
        let most = row.entries.iter().map(|e| ratio(e.median_ms)).fold(1.0, f64::max);
        y += LINE;
        let _ = writeln!(
            body,
            r#"<text x="10" y="{y:.0}" font-weight="bold">{}: median of {} rounds, sampan = 1, logarithmic</text>"#,
            escape(&row.title),
            row.runs
        );
        for entry in &row.entries {
            let value = ratio(entry.median_ms);
            let full = WIDTH - LABEL - 90.0;
            let width = full * (value * 10.0).log10() / (most * 10.0).log10();
            let colour = if entry.tool.starts_with("sampan") { "#1768ac" } else { "#a9b4c2" };
            let top = y + 6.0;
            y += LINE;
            let _ = writeln!(
                body,
                r#"<text x="{:.0}" y="{y:.0}" text-anchor="end">{}</text><rect x="{LABEL}" y="{top:.0}" width="{width:.1}" height="15" fill="{colour}"/><text x="{:.1}" y="{y:.0}">{:.2}</text>"#,
                LABEL - 8.0,
                escape(&entry.tool),
                LABEL + width + 6.0,
                entry.median_ms / unit,
            );
        }
        y += LINE / 2.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n{body}</svg>\n",
        y + LINE
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
