//! Growth as pictures: time on the left, memory on the right.

use image::RgbImage;

use super::growth::Growth;
use crate::Result;
use crate::plot::{Curve, Panel, Style, render};

const SIZE: (u32, u32) = (400, 360);

/// The picture of one growth.
///
/// # Errors
/// When it cannot be plotted, as with numbers that are not finite.
pub(super) fn growth(growth: &Growth) -> Result<RgbImage> {
    let points = &growth.points;
    let memory = points.iter().filter_map(|p| Some((p.at, p.peak_memory?)));
    let memory: Vec<_> = memory.map(|(at, bytes)| (at, bytes as f64 / 1e6)).collect();
    let milliseconds = points.iter().all(|point| point.seconds < 1.0);
    let (unit, factor) = if milliseconds {
        ("time, ms", 1e3)
    } else {
        ("time, s", 1.0)
    };
    let times = points.iter().map(|p| (p.at, factor * p.seconds)).collect();
    let panel = |title: &str, points: Vec<(f64, f64)>| {
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let right = most(&mut points.iter().map(|point| point.0));
        let top = most(&mut points.iter().map(|point| point.1));
        Panel {
            title: title.to_string(),
            of: growth.of.to_string(),
            x: 0.0..1.05 * right,
            y: 0.0..1.1 * top,
            curves: vec![Curve {
                points,
                colour: 0,
                style: Style::Dots,
            }],
        }
    };
    let panels = [panel(unit, times), panel("peak memory, MB", memory)];
    render(&panels, 2, SIZE, &[])
}
