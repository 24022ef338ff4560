//! Curves as pictures: panels side by side, each with its own axes.

use std::ops::Range;

use image::RgbImage;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::{Error, Result};

/// The font travels with the program: what the system has does not matter.
const FONT: &str = "DejaVu Sans";
/// Height of the line that names the curves, pixels.
const LEGEND: u32 = 30;

/// Colours that are told apart, by all people as far as possible (Okabe and Ito 2008).
pub(crate) const COLOURS: [(u8, u8, u8); 7] = [
    (31, 90, 166),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (90, 90, 90),
];

/// One pair of axes.
pub(crate) struct Panel {
    pub title: String,
    /// What the horizontal axis counts.
    pub of: String,
    pub x: Range<f64>,
    pub y: Range<f64>,
    pub curves: Vec<Curve>,
}

/// A line through points from left to right.
pub(crate) struct Curve {
    pub points: Vec<(f64, f64)>,
    /// Index into [`COLOURS`], which begin anew after the last.
    pub colour: usize,
    pub style: Style,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Line,
    /// Every point stands out: there are few.
    Dots,
    /// Behind the others.
    Faint,
}

/// The panels, each `size` pixels wide and high, row after row; above them the names of the curves, each
/// with its colour, if there are any.
///
/// # Errors
/// When it cannot be plotted, as with numbers that are not finite.
pub(crate) fn render(
    panels: &[Panel],
    columns: usize,
    size: (u32, u32),
    names: &[String],
) -> Result<RgbImage> {
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| Error::failed("the font of the plots cannot be read"))?;
    // Near the end of the numbers the ticks of an axis never end.
    let too_large = |panel: &Panel| {
        let Range { start, end } = panel.y;
        start.abs().max(end.abs()) > 1e300
    };
    if panels.iter().any(too_large) {
        return Err(Error::failed("plotting: numbers too large to be plotted"));
    }
    let columns = columns.min(panels.len()).max(1);
    let rows = panels.len().div_ceil(columns).max(1);
    let top = if names.is_empty() {
        0
    } else {
        LEGEND * names.len() as u32
    };
    let (width, height) = (size.0 * columns as u32, size.1 * rows as u32 + top);
    let mut pixels = vec![0; (3 * width * height) as usize];
    let mut plot = || -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let canvas = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        canvas.fill(&WHITE)?;
        let (head, body) = canvas.split_vertically(top);
        legend(&head, names)?;
        for (area, panel) in body.split_evenly((rows, columns)).iter().zip(panels) {
            axes(area, panel)?;
        }
        canvas.present()?;
        Ok(())
    };
    plot().map_err(|error| Error::failed(format!("plotting: {error}")))?;
    RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| Error::failed("plotting: the picture has another size"))
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
type Plotted<'a> = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn legend(area: &Area, names: &[String]) -> Plotted<'static> {
    for (index, name) in names.iter().enumerate() {
        let middle = (LEGEND * index as u32 + LEGEND / 2 + 4) as i32;
        let line = vec![(16, middle), (44, middle)];
        area.draw(&PathElement::new(line, colour(index).stroke_width(3)))
            .map_err(|error| error.to_string())?;
        area.draw(&Text::new(name.clone(), (54, middle - 8), (FONT, 16)))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn axes(area: &Area, panel: &Panel) -> Plotted<'static> {
    let failed = |error: DrawingAreaErrorKind<_>| -> String { format!("{error}") };
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(24)
        .caption(&panel.title, (FONT, 17))
        .x_label_area_size(44)
        .y_label_area_size(54)
        .build_cartesian_2d(panel.x.clone(), panel.y.clone())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(6)
        .y_labels(6)
        .x_desc(&panel.of)
        .label_style((FONT, 14))
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()
        .map_err(failed)?;
    for curve in &panel.curves {
        let colour = colour(curve.colour);
        let (colour, width) = match curve.style {
            Style::Faint => (colour.mix(0.25), 1),
            _ => (colour.to_rgba(), 2),
        };
        let points = curve.points.iter().copied();
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(width)))
            .map_err(failed)?;
        if curve.style == Style::Dots {
            let dots = curve
                .points
                .iter()
                .map(|at| Circle::new(*at, 4, colour.filled()));
            chart.draw_series(dots).map_err(failed)?;
        }
    }
    Ok(())
}

fn colour(index: usize) -> RGBColor {
    let (red, green, blue) = COLOURS[index % COLOURS.len()];
    RGBColor(red, green, blue)
}

/// Short: three digits that count, without the zeros that say nothing.
fn number(value: &f64) -> String {
    let size = value.abs();
    if size >= 1e6 || (size > 0.0 && size < 1e-3) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let (value, unit) = if size >= 1e4 {
        (value / 1e3, "k")
    } else {
        (*value, "")
    };
    let text = match size {
        size if size < 0.1 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    };
    let text = text.trim_end_matches('0').trim_end_matches('.');
    // Minus nothing is nothing.
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-1e-12, "-1e-12"),
            (0.0003, "3e-4"),
            (0.025, "0.025"),
            (1.5, "1.5"),
            (4096.0, "4096"),
            (12_500.0, "12.5k"),
            (2e6, "2e6"),
        ] {
            assert_eq!(number(&value), text);
        }
    }

    #[test]
    fn panels_are_filled_with_their_curves() {
        let panel = |colour| Panel {
            title: "loss".into(),
            of: "step".into(),
            x: 0.0..10.0,
            y: 0.0..1.0,
            curves: vec![Curve {
                points: (0..11).map(|n| (f64::from(n), 0.5)).collect(),
                colour,
                style: Style::Line,
            }],
        };
        let names = ["one".to_string()];
        let picture =
            render(&[panel(0), panel(1), panel(2)], 2, (200, 150), &names).expect("a picture");
        assert_eq!(picture.dimensions(), (400, 2 * 150 + LEGEND));
        let pixels = |x: u32, y: u32, index: usize| {
            let (red, green, blue) = COLOURS[index];
            let within =
                |at: (u32, u32)| (x..x + 200).contains(&at.0) && (y..y + 150).contains(&at.1);
            let all = picture.enumerate_pixels();
            all.filter(|(x, y, pixel)| within((*x, *y)) && pixel.0 == [red, green, blue])
                .count()
        };
        assert!(pixels(0, LEGEND, 0) > 90 && pixels(200, LEGEND, 1) > 90);
        assert!(pixels(0, LEGEND + 150, 2) > 90 && pixels(200, LEGEND, 0) == 0);
        assert!(pixels(0, 0, 0) > 90);
    }
}
