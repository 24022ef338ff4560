//! Reads a video of the nano world back by fitting the original art to its frames.
//!
//! Every object of the inventory is tried in every pose that a video can show: along the paths of
//! moving objects, in the sizes of growing ones, in the angles of turning ones, each up to two pixels
//! off. Of a frame, the object and pose that leave the least squared error are what it shows. Of the
//! video, the motion is the one whose poses, frame after frame, leave the least error; where one and
//! the same pose in all frames leaves less, nothing moves.
//!
//! ```text
//! gain = |d|^2 - |d - t|^2 = 2 d.t - |t|^2      d frame, t art, both less the background
//! ```

use std::sync::OnceLock;

use image::{RgbImage, imageops};
use rayon::prelude::*;

use super::fit::{background, dot, nearest};
use crate::data::nano::{Colour, Emoji, Motion, emoji::inventory, video::Pose};
use crate::sequence::templates::VIDEO_FRAMES;

/// Frames are looked at in this size: every pixel the mean of four of 64 x 64.
const SIDE: usize = 32;
/// Objects and poses of a frame that are also tried next to their place.
const CLOSELY: usize = 40;
/// Poses of one object.
const POSES: usize = Motion::ALL.len() * VIDEO_FRAMES;

/// What a video shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// The object of each frame.
    pub objects: Vec<Emoji>,
    /// The background of each frame.
    pub backgrounds: Vec<Colour>,
    /// None when nothing moves.
    pub motion: Option<Motion>,
}

/// The objects, backgrounds and motion that explain the frames of a video best, [`VIDEO_FRAMES`] of
/// them.
pub fn watch(frames: &[RgbImage]) -> Watched {
    let frames: Vec<Frame> = frames.iter().map(Frame::of).collect();
    let paths = Paths::get();
    // Of each frame: the gain of every object in every pose, in its place.
    let gains: Vec<Vec<f32>> = frames
        .par_iter()
        .map(|frame| {
            let of = |art: &Art| frame.gain(art, 0, 0);
            paths.art.iter().map(of).collect()
        })
        .collect();
    let objects = frames.iter().zip(&gains);
    let objects = objects.map(|(frame, gains)| paths.object(frame, gains));
    Watched {
        objects: objects.map(|index| inventory()[index]).collect(),
        backgrounds: frames.iter().map(|frame| frame.colour).collect(),
        motion: paths.motion(&frames, &gains),
    }
}

/// A frame, and what it differs from its background by.
struct Frame {
    colour: Colour,
    background: [f32; 3],
    /// Three channels a pixel.
    values: Vec<f32>,
    /// Of each pixel, the product of its values and the background.
    on_background: Vec<f32>,
}

impl Frame {
    fn of(picture: &RgbImage) -> Self {
        let side = 2 * SIDE as u32;
        let picture = match picture.dimensions() {
            (width, height) if (width, height) == (side, side) => picture.clone(),
            _ => imageops::resize(picture, side, side, imageops::FilterType::CatmullRom),
        };
        let background = background(&picture);
        let mut values = vec![0.0; SIDE * SIDE * 3];
        for (x, y, pixel) in picture.enumerate_pixels() {
            let at = (y as usize / 2 * SIDE + x as usize / 2) * 3;
            for channel in 0..3 {
                values[at + channel] += (f32::from(pixel.0[channel]) - background[channel]) / 4.0;
            }
        }
        let pixels = values.chunks_exact(3);
        Self {
            colour: nearest(background),
            background,
            on_background: pixels.map(|pixel| dot(pixel, &background)).collect(),
            values,
        }
    }

    /// The squared error that the art takes away, moved by so many pixels of this size.
    fn gain(&self, art: &Art, right: i32, down: i32) -> f32 {
        // What is moved off the canvas is not there.
        let x = art.left + right;
        let first = (-x).clamp(0, art.width as i32) as usize;
        let last = (SIDE as i32 - x).clamp(0, art.width as i32) as usize;
        let mut product = 0.0;
        let rows = art.opacity.len() / art.width;
        for row in 0..rows as i32 {
            let y = art.top + row + down;
            if !(0..SIDE as i32).contains(&y) || first >= last {
                continue;
            }
            let own = row as usize * art.width;
            let (own, end) = (own + first, own + last);
            let at = y as usize * SIDE + (x + first as i32) as usize;
            let until = at + last - first;
            product += dot(
                &self.values[3 * at..3 * until],
                &art.colour[3 * own..3 * end],
            );
            product -= dot(&self.on_background[at..until], &art.opacity[own..end]);
        }
        2.0 * product - art.norm(self.background)
    }

    /// The best that can be had up to one pixel of this size away.
    fn gain_near(&self, art: &Art) -> f32 {
        let around = (-1..=1).flat_map(|down| (-1..=1).map(move |right| (right, down)));
        around
            .map(|(right, down)| self.gain(art, right, down))
            .fold(f32::NEG_INFINITY, f32::max)
    }
}

/// An object in a pose, on the rectangle that it covers. Over a background it differs from that by
/// `colour - opacity * background`.
struct Art {
    left: i32,
    top: i32,
    width: usize,
    /// Premultiplied, three channels a pixel.
    colour: Vec<f32>,
    /// 0 to 1, a value a pixel.
    opacity: Vec<f32>,
    /// Sums over all pixels: of colour squared, of colour times opacity, of opacity squared.
    squares: (f32, [f32; 3], f32),
}

impl Art {
    fn of(object: &Emoji, pose: &Pose) -> Self {
        let (sprite, left, top) = pose.place(object, 2 * SIDE as u32);
        let side = sprite.side as usize;
        // Of two by two pixels each, wherever the art begins.
        let (first_x, first_y) = (left.div_euclid(2), top.div_euclid(2));
        let end = |start: i64| (start + side as i64 + 1).div_euclid(2);
        let width = (end(left) - first_x) as usize;
        let height = (end(top) - first_y) as usize;
        let (mut colour, mut opacity) = (vec![0.0; width * height * 3], vec![0.0; width * height]);
        for (at, pixel) in sprite.pixels.iter().enumerate() {
            let x = ((left + (at % side) as i64).div_euclid(2) - first_x) as usize;
            let y = ((top + (at / side) as i64).div_euclid(2) - first_y) as usize;
            let at = y * width + x;
            let values = pixel.map(|value| f32::from(value) / 4.0);
            for channel in 0..3 {
                colour[3 * at + channel] += values[channel];
            }
            opacity[at] += values[3] / 255.0;
        }
        let mut squares = (dot(&colour, &colour), [0.0; 3], dot(&opacity, &opacity));
        for (pixel, opacity) in colour.chunks_exact(3).zip(&opacity) {
            for (sum, value) in squares.1.iter_mut().zip(pixel) {
                *sum += value * opacity;
            }
        }
        Self {
            left: first_x as i32,
            top: first_y as i32,
            width,
            colour,
            opacity,
            squares,
        }
    }

    /// Sum of squares of what it differs from the background by.
    fn norm(&self, background: [f32; 3]) -> f32 {
        let (colour, both, opacity) = self.squares;
        colour - 2.0 * dot(&both, &background) + opacity * dot(&background, &background)
    }
}

/// Every object in every pose that a video can show.
struct Paths {
    /// Object after object, motion after motion, frame after frame.
    art: Vec<Art>,
}

impl Paths {
    fn get() -> &'static Self {
        static PATHS: OnceLock<Paths> = OnceLock::new();
        PATHS.get_or_init(|| {
            let t = |frame: usize| frame as f64 / (VIDEO_FRAMES - 1) as f64;
            let poses: Vec<_> = (Motion::ALL.iter())
                .flat_map(|motion| (0..VIDEO_FRAMES).map(move |frame| motion.pose(t(frame))))
                .collect();
            let art = inventory().par_iter().flat_map_iter(|object| {
                let art: Vec<Art> = poses.iter().map(|pose| Art::of(object, pose)).collect();
                art
            });
            Self { art: art.collect() }
        })
    }

    /// The object (its index) that explains a frame best.
    fn object(&self, frame: &Frame, gains: &[f32]) -> usize {
        let mut order: Vec<usize> = (0..gains.len()).collect();
        order.sort_by(|a, b| gains[*b].total_cmp(&gains[*a]));
        let near = order.into_iter().take(CLOSELY);
        let best = near
            .map(|at| (at, frame.gain_near(&self.art[at])))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(0, |(at, _)| at / POSES)
    }

    /// The motion that explains the frames best, of the object that does; none where no motion does
    /// better than a pose that is kept.
    fn motion(&self, frames: &[Frame], gains: &[Vec<f32>]) -> Option<Motion> {
        let explained = |object: usize| -> f32 {
            let best = |gains: &Vec<f32>| {
                let own = &gains[object * POSES..(object + 1) * POSES];
                own.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            };
            gains.iter().map(best).sum()
        };
        let objects = 0..inventory().len();
        let object = objects.max_by(|a, b| explained(*a).total_cmp(&explained(*b)))?;
        // Of each frame, the gain of this object in each pose, next to its place too.
        let own = &self.art[object * POSES..(object + 1) * POSES];
        let near: Vec<Vec<f32>> = frames
            .par_iter()
            .map(|frame| own.iter().map(|art| frame.gain_near(art)).collect())
            .collect();
        let moving = Motion::ALL.iter().enumerate().map(|(at, motion)| {
            let along = near.iter().enumerate();
            let gain: f32 = along.map(|(f, near)| near[at * VIDEO_FRAMES + f]).sum();
            (Some(*motion), gain)
        });
        let still = (0..POSES).map(|pose| (None, near.iter().map(|near| near[pose]).sum()));
        let best = moving.chain(still).max_by(|a, b| a.1.total_cmp(&b.1));
        best.and_then(|(motion, _)| motion)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::nano::{Split, Video};

    /// As a model would make it, a little dark and coarse, and a pixel off.
    fn coarse(frame: &RgbImage) -> RgbImage {
        RgbImage::from_fn(frame.width(), frame.height(), |x, y| {
            let mut pixel = *frame.get_pixel((x + 1).min(63), y);
            let noise = ((x * 7 + y * 13) % 16) as u8;
            pixel.0 = pixel.0.map(|value| value / 8 * 7 + noise);
            pixel
        })
    }

    #[test]
    fn reads_what_videos_show() {
        let mut met = Vec::new();
        for index in 0.. {
            let video = Video::sample(Split::Test, 11, index);
            if met.contains(&video.motion) {
                continue;
            }
            met.push(video.motion);
            let frames = video.render(VIDEO_FRAMES, 64);
            let frames: Vec<_> = frames.iter().map(coarse).collect();
            let expected = Watched {
                objects: vec![video.object; VIDEO_FRAMES],
                backgrounds: vec![video.background; VIDEO_FRAMES],
                motion: Some(video.motion),
            };
            assert_eq!(watch(&frames), expected, "{}", video.caption());
            if met.len() < 3 {
                let still = vec![frames[2].clone(); VIDEO_FRAMES];
                assert_eq!(watch(&still).motion, None, "{}", video.caption());
            }
            if met.len() == Motion::ALL.len() {
                break;
            }
        }
    }
}
