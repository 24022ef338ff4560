//! The curves of runs: `curves.png` in a run folder, and several runs together.
//!
//! Losses of single steps jump; what is plotted and compared of them is a running mean over the last
//! twentieth of the steps, with the single steps faintly behind. Evaluations stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::Serialize;

use crate::plot::{self, Curve, Panel, Style};
use crate::training::run_folder::metrics;
use crate::{Error, Result, media};

const COLUMNS: usize = 3;
const PANEL: (u32, u32) = (420, 280);
/// Part of the steps that the running mean is over.
const SMOOTH: f64 = 0.05;
/// What is plotted after the losses and evaluations, in this order; and what is not, for it says the same.
const LAST: [&str; 4] = [
    "gradient_norm",
    "learning_rate",
    "samples_per_second",
    "waiting",
];
const LEFT_OUT: [&str; 4] = [
    "seconds",
    "tokens_per_second",
    "skipped",
    "pictures_left_out",
];

/// The values of a run by name, each with its step.
type Series = BTreeMap<String, Vec<(f64, f64)>>;

/// Plots the curves of a run into its folder.
pub fn plot(out: &Path) -> Result<()> {
    let series = read(out)?;
    let names: Vec<&str> = series.keys().map(String::as_str).collect();
    let panels: Vec<Panel> = ordered(names).map(|name| panel(name, &[&series])).collect();
    if panels.is_empty() {
        return Ok(());
    }
    let picture = plot::render(&panels, COLUMNS, PANEL, &[])?;
    media::save_png(&out.join("curves.png"), &picture)
}

/// What several runs come to.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub runs: Vec<PathBuf>,
    pub metrics: Vec<Compared>,
    #[serde(skip)]
    pub picture: RgbImage,
}

/// A loss or an evaluation that at least one of the runs has.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub name: String,
    /// Of each run; none where it has no such values.
    pub runs: Vec<Option<Summary>>,
}

/// The last value and the best: the lowest in training and of losses, the highest of other evaluations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub last: f64,
    pub last_step: u64,
    pub best: f64,
    pub best_step: u64,
}

/// Compares the runs in some folders.
///
/// # Errors
/// When one of them holds no metrics.
pub fn compare(runs: &[PathBuf]) -> Result<Comparison> {
    let series = runs.iter().map(|run| {
        let file = run.join("metrics.jsonl");
        if !file.exists() {
            let reason = "not the folder of a run: it has no metrics.jsonl";
            return Err(Error::invalid(run, reason));
        }
        let series = read(run)?;
        if series.is_empty() {
            Err(Error::invalid(file, "holds no step of a run"))
        } else {
            Ok(series)
        }
    });
    let series: Vec<Series> = series.collect::<Result<_>>()?;
    let all: BTreeSet<&str> = series
        .iter()
        .flat_map(|one| one.keys().map(String::as_str))
        .collect();
    let names: Vec<&str> = ordered(all).collect();
    let compared = |name: &&&str| !LAST.contains(name);
    let metrics = names.iter().filter(compared).map(|name| Compared {
        name: name.to_string(),
        runs: series
            .iter()
            .map(|one| summary(name, one.get(*name)?))
            .collect(),
    });
    let each: Vec<&Series> = series.iter().collect();
    let shared = |name: &&&str| series.iter().filter(|one| one.contains_key(**name)).count() > 1;
    let panels: Vec<Panel> = match series.len() {
        1 => names.iter().map(|name| panel(name, &each)).collect(),
        _ => names
            .iter()
            .filter(shared)
            .map(|name| panel(name, &each))
            .collect(),
    };
    let labels: Vec<String> = runs.iter().map(|run| run.display().to_string()).collect();
    Ok(Comparison {
        metrics: metrics.collect(),
        picture: plot::render(&panels, COLUMNS, PANEL, &labels)?,
        runs: runs.to_vec(),
    })
}

fn read(out: &Path) -> Result<Series> {
    let mut series = Series::new();
    for (step, values) in metrics::read(out)? {
        for (name, value) in values {
            series.entry(name).or_default().push((step as f64, value));
        }
    }
    Ok(series)
}

/// The loss, its parts, evaluations, and the rest.
fn ordered<'a>(names: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let rank = |name: &str| match name {
        "loss" => 0,
        name if name.starts_with("eval/") => 2,
        name => match LAST.iter().position(|last| *last == name) {
            None => 1,
            Some(at) => 3 + at,
        },
    };
    let mut names: Vec<&str> = names
        .into_iter()
        .filter(|name| !LEFT_OUT.contains(name))
        .collect();
    names.sort_by_key(|name| (rank(name), name.to_string()));
    names.into_iter()
}

fn evaluated(name: &str) -> bool {
    name.starts_with("eval/")
}

fn panel(name: &str, runs: &[&Series]) -> Panel {
    let (mut behind, mut before) = (Vec::new(), Vec::new());
    let mut right = 1.0_f64;
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (colour, series) in runs.iter().enumerate() {
        let Some(points) = series.get(name) else {
            continue;
        };
        let steps = evaluated(name) || name == "learning_rate";
        let line = if steps {
            points.clone()
        } else {
            smooth(points)
        };
        for (step, value) in &line {
            right = right.max(*step);
            (low, high) = (low.min(*value), high.max(*value));
        }
        if !steps {
            behind.push((colour, points.clone()));
        }
        before.push((colour, line, evaluated(name)));
    }
    let pad = match high - low {
        span if span > 0.0 => 0.06 * span,
        _ => 0.1 * low.abs().max(1e-3),
    };
    let y = low - pad..high + pad;
    let curve = |(colour, points, style): (usize, Vec<(f64, f64)>, Style)| Curve {
        // Single steps may lie far outside.
        points: clamp(points, &y),
        colour,
        style,
    };
    let behind = behind
        .into_iter()
        .map(|(colour, points)| (colour, points, Style::Faint));
    let before = before.into_iter().map(|(colour, points, few)| {
        if few {
            (colour, points, Style::Dots)
        } else {
            (colour, points, Style::Line)
        }
    });
    Panel {
        title: name.to_string(),
        of: "step".into(),
        x: 0.0..1.02 * right,
        curves: behind.chain(before).map(curve).collect(),
        y,
    }
}

fn clamp(points: Vec<(f64, f64)>, y: &Range<f64>) -> Vec<(f64, f64)> {
    let within = |(step, value): (f64, f64)| (step, value.clamp(y.start, y.end));
    points.into_iter().map(within).collect()
}

/// The running mean.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = ((points.len() as f64 * SMOOTH) as usize).max(1);
    let mut sum = 0.0;
    let mean = |(at, (step, value)): (usize, &(f64, f64))| {
        sum += value;
        if at >= window {
            sum -= points[at - window].1;
        }
        (*step, sum / (at + 1).min(window) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

fn summary(name: &str, points: &[(f64, f64)]) -> Option<Summary> {
    let points = if evaluated(name) {
        points.to_vec()
    } else {
        smooth(points)
    };
    let loss = name.split('/').any(|part| part.ends_with("loss"));
    let sign = if evaluated(name) && !loss { 1.0 } else { -1.0 };
    let last = points.last()?;
    // The first of equals.
    let best = points
        .iter()
        .rev()
        .max_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)))?;
    Some(Summary {
        last: last.1,
        last_step: last.0 as u64,
        best: best.1,
        best_step: best.0 as u64,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(folder: &Path, name: &str, steps: u64, offset: f64) -> PathBuf {
        let out = folder.join(name);
        std::fs::create_dir(&out).unwrap();
        let line = |step: u64| {
            let loss = offset + 4.0 / step as f64;
            let eval = match step % 10 {
                0 => format!(
                    r#", "eval/psnr": {}, "eval/loss": {loss}"#,
                    20.0 - (step as f64 - 30.0).abs()
                ),
                _ => String::new(),
            };
            format!(r#"{{"step": {step}, "loss": {loss}, "waiting": 0.1, "seconds": 1.0{eval}}}"#)
        };
        let lines: Vec<String> = (1..=steps).map(line).collect();
        std::fs::write(out.join("metrics.jsonl"), lines.join("\n")).unwrap();
        out
    }

    #[test]
    fn runs_are_compared_by_their_last_and_best_values() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [
            run(folder.path(), "a", 40, 1.0),
            run(folder.path(), "b", 60, 2.0),
        ];
        let compared = compare(&runs).unwrap();
        let names: Vec<&str> = compared
            .metrics
            .iter()
            .map(|metric| metric.name.as_str())
            .collect();
        assert_eq!(names, ["loss", "eval/loss", "eval/psnr"]);
        let psnr = compared.metrics[2].runs[1].unwrap();
        assert_eq!((psnr.best, psnr.best_step), (20.0, 30));
        assert_eq!((psnr.last, psnr.last_step), (-10.0, 60));
        let loss = compared.metrics[1].runs[0].unwrap();
        assert_eq!((loss.best, loss.best_step), (1.1, 40));
        let depth = summary("eval/visual_loss/2", &[(10.0, 3.0), (20.0, 2.0)]).unwrap();
        assert_eq!((depth.best, depth.best_step), (2.0, 20));
        // Loss, the two evaluations and waiting, below two names.
        assert_eq!(compared.picture.dimensions(), (3 * 420, 2 * 280 + 60));

        plot(&runs[0]).unwrap();
        let picture = image::open(runs[0].join("curves.png")).unwrap();
        assert_eq!((picture.width(), picture.height()), (3 * 420, 2 * 280));
        assert!(compare(&[folder.path().join("none")]).is_err());
    }

    #[test]
    fn smoothing_is_a_mean_of_the_steps_before() {
        let points: Vec<(f64, f64)> = (0..40).map(|n| (f64::from(n), f64::from(n))).collect();
        let smooth = smooth(&points);
        assert_eq!(smooth[0], (0.0, 0.0));
        assert_eq!(smooth[39], (39.0, 38.5));
    }
}
