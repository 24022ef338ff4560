//! `vila-u train --compare`: the curves of several runs together.

use std::path::Path;

use vila_u::{
    Result, media,
    training::run_folder::curves::{self, Comparison, Summary},
};

use super::{check_file, to_json};
use crate::{arguments::Train, console::Console};

pub fn run(args: &Train, console: &Console) -> Result<()> {
    let output = args.output.as_deref().unwrap_or(Path::new("curves.png"));
    check_file(output, "png")?;
    let compared = curves::compare(&args.compare)?;
    media::save_png(output, &compared.picture)?;
    let mut value = to_json(&compared)?;
    value["picture"] = output.display().to_string().into();
    let text = format!("{}\n{}", table(&compared), output.display());
    console.result(&text, value)
}

fn number(value: f64) -> String {
    if value.abs() < 1e9 {
        format!("{value:.4}")
    } else {
        format!("{value:.4e}")
    }
}

/// A line for each metric, two columns for each run.
fn table(compared: &Comparison) -> String {
    let mut rows = vec![vec![String::new()], vec![String::new()]];
    for run in &compared.runs {
        rows[0].extend([run.display().to_string(), String::new()]);
        rows[1].extend(["last".to_string(), "best (step)".to_string()]);
    }
    for metric in &compared.metrics {
        let cells = metric.runs.iter().flat_map(|run| match run {
            None => ["-".to_string(), "-".to_string()],
            Some(Summary {
                last,
                best,
                best_step,
                ..
            }) => [number(*last), format!("{} ({best_step})", number(*best))],
        });
        rows.push([metric.name.clone()].into_iter().chain(cells).collect());
    }
    // The name of a run may reach over both of its columns.
    let columns = rows[1].len();
    let width = |column: usize| {
        let cells = rows[1..].iter().map(|row| row[column].chars().count());
        let over = if column > 0 && column.is_multiple_of(2) {
            rows[0][column - 1].chars().count().saturating_sub(12)
        } else {
            0
        };
        cells.max().unwrap_or(0).max(over).max(8)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for run in 0..compared.runs.len() {
            let (one, two) = (1 + 2 * run, 2 + 2 * run);
            let both = widths[one] + widths[two] + 2;
            line += &match number {
                0 => format!("  {:>both$}", row[one]),
                _ => format!(
                    "  {:>2$}  {:>3$}",
                    row[one], row[two], widths[one], widths[two]
                ),
            };
        }
        lines.push(line.trim_end().to_string());
    }
    lines.join("\n")
}
