//! A picture in two layers: what is cut out, and the plain background behind it.

use image::{RgbImage, Rgba, RgbaImage};

/// A cut-out on a plain background. Where the cut-out is transparent the background shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// Premultiplied: colours are already weighed by alpha.
    pub cut_out: RgbaImage,
    pub background: [u8; 3],
}

impl Layers {
    /// What is cut out of a picture that is rendered on a colour by `render_on`.
    ///
    /// On black only the cut-out's own light is left; what white adds to that is what it lets through.
    pub(super) fn of(background: [u8; 3], render_on: impl Fn([u8; 3]) -> RgbImage) -> Self {
        let [black, white] = [0, 255].map(|grey| render_on([grey; 3]));
        let (width, height) = black.dimensions();
        let cut_out = RgbaImage::from_fn(width, height, |x, y| {
            let ([red, green, blue], [lit, ..]) =
                (black.get_pixel(x, y).0, white.get_pixel(x, y).0);
            Rgba([red, green, blue, 255 - lit.saturating_sub(red)])
        });
        Self {
            cut_out,
            background,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::nano::{Scene, Split};

    #[test]
    fn layers_put_together_are_the_picture() {
        for index in 0..20 {
            let scene = Scene::sample(Split::Train, 1, index);
            let Layers {
                cut_out,
                background,
            } = scene.layers(64);
            let picture = scene.render(64);
            for (x, y, Rgba([red, green, blue, alpha])) in cut_out.enumerate_pixels() {
                for (channel, light) in [red, green, blue].into_iter().enumerate() {
                    let behind = u32::from(background[channel]) * u32::from(255 - alpha);
                    let both = (u32::from(*light) + (behind + 127) / 255) as i32;
                    let there = i32::from(picture.get_pixel(x, y)[channel]);
                    // Where two cut-outs overlap, each rounds.
                    assert!((both - there).abs() <= 2, "{index}: {x}, {y}");
                }
            }
            assert!(cut_out.pixels().any(|pixel| pixel[3] == 0), "{index}");
            assert!(cut_out.pixels().any(|pixel| pixel[3] == 255), "{index}");
        }
    }
}
