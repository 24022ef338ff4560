//! Growth as pictures: time on the left, memory on the right.

use image::RgbImage;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::growth::Growth;
use crate::{Error, Result};

const SIZE: (u32, u32) = (800, 360);
/// The font travels with the program: what the system has does not matter.
const FONT: &str = "DejaVu Sans";

/// The picture of one growth.
///
/// # Errors
/// When it cannot be drawn, as with numbers that are not finite.
pub fn growth(growth: &Growth) -> Result<RgbImage> {
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| Error::failed("the font of the plots cannot be read"))?;
    let mut pixels = vec![0; (3 * SIZE.0 * SIZE.1) as usize];
    draw(growth, &mut pixels).map_err(|error| Error::failed(format!("plotting: {error}")))?;
    RgbImage::from_raw(SIZE.0, SIZE.1, pixels)
        .ok_or_else(|| Error::failed("plotting: the picture has another size"))
}

fn draw(
    growth: &Growth,
    pixels: &mut [u8],
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let points = &growth.points;
    let times: Vec<_> = points.iter().map(|p| (p.at, p.seconds)).collect();
    let memory = points.iter().filter_map(|p| Some((p.at, p.peak_memory?)));
    let memory: Vec<_> = memory.map(|(at, bytes)| (at, bytes as f64 / 1e6)).collect();
    let canvas = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    canvas.fill(&WHITE)?;
    let panels = canvas.split_evenly((1, 2));
    let milliseconds = times.iter().all(|(_, seconds)| *seconds < 1.0);
    let (unit, factor) = match milliseconds {
        true => ("time, ms", 1e3),
        false => ("time, s", 1.0),
    };
    let times: Vec<_> = times.iter().map(|(at, s)| (*at, factor * s)).collect();
    for (panel, title, curve) in [
        (&panels[0], unit, times),
        (&panels[1], "peak memory, MB", memory),
    ] {
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let right = most(&mut curve.iter().map(|point| point.0));
        let top = most(&mut curve.iter().map(|point| point.1));
        let mut chart = ChartBuilder::on(panel)
            .margin(12)
            .margin_right(24)
            .caption(title, (FONT, 17))
            .x_label_area_size(44)
            .y_label_area_size(54)
            .build_cartesian_2d(0.0..1.05 * right, 0.0..1.1 * top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(6)
            .y_labels(6)
            .x_desc(growth.of)
            .label_style((FONT, 14))
            .x_label_formatter(&number)
            .y_label_formatter(&number)
            .draw()?;
        let blue = RGBColor(31, 90, 166);
        chart.draw_series(LineSeries::new(curve.iter().copied(), blue.stroke_width(2)))?;
        let dots = curve.iter().map(|at| Circle::new(*at, 4, blue.filled()));
        chart.draw_series(dots)?;
    }
    canvas.present()?;
    Ok(())
}

/// Without the zeros that say nothing.
fn number(value: &f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}
