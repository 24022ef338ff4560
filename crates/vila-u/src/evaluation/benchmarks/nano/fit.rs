//! Reads a picture of the nano world back by fitting the original art to it.
//!
//! Every object of the inventory is tried in every place and size, up to four times. What
//! leaves the least squared error against the picture is what the picture shows. No learned model
//! takes part, so an image cannot please its judge by anything but pixels.

use image::{RgbImage, imageops};

use crate::data::nano::{
    Colour, Emoji,
    emoji::inventory,
    scene::COLOURS,
    sprite::{Sprite, sprite},
};

/// Pictures are looked at in this size.
const SIDE: usize = 64;
/// Sides of small, medium and large objects; all sides are even, so that they can be halved.
const SIZES: [usize; 3] = [18, 28, 46];
/// How much smaller or larger an object may be.
const SLACK: usize = 2;
/// Objects and sizes that are looked at closely, the best of a look at half the resolution.
const CLOSELY: usize = 12;
/// A further copy must explain at least this part of what the first one does.
const LEAST_COPY: f32 = 0.5;

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    pub object: Emoji,
    pub count: usize,
    pub background: Colour,
}

/// The objects and the background that explain the picture best.
pub fn look(picture: &RgbImage) -> Seen {
    let side = SIDE as u32;
    let picture = match picture.dimensions() {
        (width, height) if (width, height) == (side, side) => picture.clone(),
        _ => imageops::resize(picture, side, side, imageops::FilterType::CatmullRom),
    };
    let background = background(&picture);
    let rest = Field::picture(&picture, background);
    let coarse = rest.half();
    let mut candidates = Vec::new();
    for object in inventory() {
        for side in SIZES {
            let art = Field::art(&sprite(object, side as u32), background).half();
            candidates.push((explained(&coarse.place(&art, 1)), *object, side));
        }
    }
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut best, mut object, mut count) = (f32::NEG_INFINITY, inventory()[0], 0);
    for (_, candidate, side) in candidates.into_iter().take(CLOSELY) {
        for side in [side - SLACK, side, side + SLACK] {
            let art = Field::art(&sprite(&candidate, side as u32), background);
            let copies = rest.place(&art, 2);
            if explained(&copies) > best {
                (best, object, count) = (explained(&copies), candidate, copies.len());
            }
        }
    }
    Seen {
        object,
        count,
        background: nearest(background),
    }
}

/// The squared error that all copies take away together.
fn explained(copies: &[Copy]) -> f32 {
    copies.iter().map(|copy| copy.gain).sum()
}

/// The median colour of the outermost two pixels, which objects leave free.
pub(super) fn background(picture: &RgbImage) -> [f32; 3] {
    let last = SIDE as u32 - 2;
    let ring = picture
        .enumerate_pixels()
        .filter(|(x, y, _)| [x, y].into_iter().any(|at| *at < 2 || *at >= last));
    let ring: Vec<_> = ring.map(|(_, _, pixel)| pixel.0).collect();
    [0, 1, 2].map(|channel| {
        let mut values: Vec<u8> = ring.iter().map(|pixel| pixel[channel]).collect();
        values.sort_unstable();
        f32::from(values[values.len() / 2])
    })
}

pub(super) fn nearest(colour: [f32; 3]) -> Colour {
    let distance = |named: &Colour| -> f32 {
        let channels = named.rgb.iter().zip(colour);
        channels.map(|(a, b)| (f32::from(*a) - b).powi(2)).sum()
    };
    let nearer = |a: Colour, b: Colour| if distance(&b) < distance(&a) { b } else { a };
    COLOURS.into_iter().reduce(nearer).unwrap_or(COLOURS[0])
}

/// A square picture or object as its difference from the background, three channels a pixel.
struct Field {
    side: usize,
    values: Vec<f32>,
}

/// One object put in its place: the squared error that it takes away.
#[derive(Clone, Copy)]
struct Copy {
    left: usize,
    top: usize,
    gain: f32,
}

impl Field {
    fn picture(picture: &RgbImage, background: [f32; 3]) -> Self {
        let values = picture.pixels().flat_map(|pixel| {
            let channels = pixel.0.into_iter().zip(background);
            channels.map(|(value, under)| f32::from(value) - under)
        });
        Self {
            side: SIDE,
            values: values.collect(),
        }
    }

    fn art(sprite: &Sprite, background: [f32; 3]) -> Self {
        let values = sprite.pixels.iter().flat_map(|[red, green, blue, alpha]| {
            let opacity = f32::from(*alpha) / 255.0;
            let over = [*red, *green, *blue].into_iter().zip(background);
            over.map(move |(over, under)| f32::from(over) - opacity * under)
        });
        Self {
            side: sprite.side as usize,
            values: values.collect(),
        }
    }

    /// Half as wide and high, every pixel the mean of four.
    fn half(&self) -> Self {
        let side = self.side / 2;
        let mut values = Vec::with_capacity(side * side * 3);
        for row in 0..side {
            for column in 0..side {
                let corner = (2 * row * self.side + 2 * column) * 3;
                for channel in 0..3 {
                    let four = [0, 3, 3 * self.side, 3 * self.side + 3];
                    let sum: f32 = four
                        .iter()
                        .map(|at| self.values[corner + channel + at])
                        .sum();
                    values.push(sum / 4.0);
                }
            }
        }
        Self { side, values }
    }

    /// `|d|^2 - |d - t|^2 = 2 d.t - |t|^2`, d the picture here and t the art with its square `norm`.
    fn gain(&self, art: &Self, norm: f32, left: usize, top: usize) -> f32 {
        let mut product = 0.0;
        for (row, values) in art.values.chunks_exact(art.side * 3).enumerate() {
            let start = ((top + row) * self.side + left) * 3;
            product += dot(&self.values[start..start + values.len()], values);
        }
        2.0 * product - norm
    }

    /// The best places of up to four copies that do not overlap. Every `stride`-th place is tried,
    /// and the best are then moved by less than that.
    fn place(&self, art: &Self, stride: usize) -> Vec<Copy> {
        let norm = dot(&art.values, &art.values);
        let last = self.side - art.side;
        let try_at = |left, top| Copy {
            left,
            top,
            gain: self.gain(art, norm, left, top),
        };
        let places = || (0..=last).step_by(stride);
        let mut open: Vec<Copy> = places()
            .flat_map(|top| places().map(move |left| (left, top)))
            .map(|(left, top)| try_at(left, top))
            .collect();
        let mut copies: Vec<Copy> = Vec::new();
        while copies.len() < 4 {
            let Some(mut copy) = open
                .iter()
                .copied()
                .max_by(|a, b| a.gain.total_cmp(&b.gain))
            else {
                break;
            };
            if stride > 1 {
                let around =
                    |at: usize| at.saturating_sub(stride - 1)..=(at + stride - 1).min(last);
                let near = around(copy.top)
                    .flat_map(|top| around(copy.left).map(move |left| (left, top)))
                    .map(|(left, top)| try_at(left, top));
                copy = near
                    .max_by(|a, b| a.gain.total_cmp(&b.gain))
                    .unwrap_or(copy);
            }
            if copies
                .first()
                .is_some_and(|first| copy.gain < LEAST_COPY * first.gain)
            {
                break;
            }
            // Art has empty corners: neighbours may overlap by a tenth.
            let apart = |a: usize, b: usize| a.abs_diff(b) * 10 >= art.side * 9;
            open.retain(|other| apart(other.left, copy.left) || apart(other.top, copy.top));
            copies.push(copy);
        }
        copies
    }
}

/// In eight lanes, which the compiler keeps in one register.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 8];
    let (whole_a, rest_a) = a.as_chunks::<8>();
    let (whole_b, rest_b) = b.as_chunks::<8>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::nano::{Layout, Scene, Split};

    #[test]
    fn reads_what_scenes_show() {
        let mut right = 0;
        for index in 0..6 {
            let scene = Scene::sample(Split::Test, 11, index);
            let (Layout::Single { object, .. } | Layout::Copies { object, .. }) = &scene.layout
            else {
                continue;
            };
            // As a model would make it, a little dark and coarse.
            let mut picture = scene.render(64);
            for (x, y, pixel) in picture.enumerate_pixels_mut() {
                pixel.0 = pixel
                    .0
                    .map(|value| value / 8 * 7 + ((x * 7 + y * 13) % 16) as u8);
            }
            let expected = Seen {
                object: *object,
                count: scene.count(),
                background: scene.background,
            };
            assert_eq!(look(&picture), expected);
            right += 1;
        }
        assert!(right > 3);
    }
}
