//! A video of the nano world: one object on a coloured background that moves, grows, shrinks or
//! turns.
//!
//! With `t` from 0 (first frame) to 1 (last frame):
//!
//! ```text
//! moves      from one edge of the canvas towards the other, place = start + t travel
//! grows      in the middle, side = small + t (large - small); shrinks the other way round
//! turns      in the middle, angle = 180 t degrees, clockwise or anticlockwise
//! ```
//!
//! A video is given by its object, its motion and its background. One in ten of these combinations
//! is held out, and so is everything whose pictures would show a scene that is held out.

use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use rand::Rng;
use rayon::prelude::*;

use super::{
    Colour, Emoji, Layout, Place, Scene, Size, Split, emoji,
    scene::{COLOURS, along, pick, rng, stands_out},
    sprite::{Sprite, sprite, turned_sprite},
};
use crate::data::Layers;

/// What the object does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Motion {
    Left,
    Right,
    Up,
    Down,
    Grow,
    Shrink,
    Clockwise,
    Anticlockwise,
}

impl Motion {
    pub const ALL: [Self; 8] = [
        Self::Left,
        Self::Right,
        Self::Up,
        Self::Down,
        Self::Grow,
        Self::Shrink,
        Self::Clockwise,
        Self::Anticlockwise,
    ];

    /// Where the object is at `t`, 0 to 1.
    pub fn pose(self, t: f64) -> Pose {
        let side = Size::Medium.fraction();
        let middle = (1.0 - side) / 2.0;
        let between = |from: f64, to: f64| from + t * (to - from);
        let [start, end] = [0, 2].map(|step| along(step, side));
        let (on, back) = (start + t * TRAVEL, end - t * TRAVEL);
        let at = |left, top| Pose {
            left,
            top,
            side,
            turn: 0.0,
        };
        let centred = |side: f64, turn: f64| Pose {
            left: (1.0 - side) / 2.0,
            top: (1.0 - side) / 2.0,
            side,
            turn,
        };
        let [small, large] = [Size::Small, Size::Large].map(Size::fraction);
        match self {
            Self::Left => at(back, middle),
            Self::Right => at(on, middle),
            Self::Up => at(middle, back),
            Self::Down => at(middle, on),
            Self::Grow => centred(between(small, large), 0.0),
            Self::Shrink => centred(between(large, small), 0.0),
            Self::Clockwise => centred(TURNING_SIDE, TURN * t),
            Self::Anticlockwise => centred(TURNING_SIDE, -TURN * t),
        }
    }
}

/// How far an object moves, as a part of the canvas: in eight frames by half a patch of the nano model each,
/// so that every other frame shows it in the same patches, further on.
const TRAVEL: f64 = 0.4375;
/// Side of an object that turns; its corners stay on the canvas.
const TURNING_SIDE: f64 = 0.58;
/// How far it turns, in degrees.
const TURN: f64 = 180.0;

/// Place and size of an object as parts of the canvas, and its turn in degrees, clockwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    pub left: f64,
    pub top: f64,
    pub side: f64,
    pub turn: f64,
}

impl Pose {
    /// The art and its top left corner, on a canvas of `size` pixels.
    pub(crate) fn place(&self, object: &Emoji, size: u32) -> (std::sync::Arc<Sprite>, i64, i64) {
        let pixels = |part: f64| (part * f64::from(size)).round();
        let side = pixels(self.side).max(1.0) as u32;
        let art = turned_sprite(object, side, (self.turn * 10.0).round() as i32);
        let border = i64::from(art.side - side) / 2;
        let [left, top] = [self.left, self.top].map(|part| pixels(part) as i64 - border);
        (art, left, top)
    }
}

/// A moving picture and the truth about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    pub object: Emoji,
    pub background: Colour,
    pub motion: Motion,
    /// Chooses among the ways to say the same.
    pub(super) wording: u64,
}

impl Video {
    /// Video `index` of a split: the same for the same arguments, always.
    pub fn sample(split: Split, seed: u64, index: u64) -> Self {
        let mut rng = rng("video", split, seed, index);
        loop {
            let video = Self {
                object: *pick(&mut rng, emoji::inventory()),
                background: *pick(&mut rng, &COLOURS),
                motion: *pick(&mut rng, &Motion::ALL),
                wording: rng.random(),
            };
            if video.split() == Some(split) && video.visible() {
                return video;
            }
        }
    }

    /// The split that this combination and the one that its frames show belong to; None where they are of two
    /// that are held out.
    pub fn split(&self) -> Option<Split> {
        let Self {
            object,
            background,
            motion,
            ..
        } = self;
        let key = format!("{}|{motion:?}|{}", object.name, background.name);
        Split::of_all([
            Split::of(&key, 10),
            Scene::plain(*object, *background).split(),
        ])
    }

    /// Whether the object stands out from the background, and its motion can be seen.
    fn visible(&self) -> bool {
        let turns = matches!(self.motion, Motion::Clockwise | Motion::Anticlockwise);
        stands_out(&self.object, self.background) && (!turns || turns_visibly(&self.object))
    }

    /// `frames` frames on square canvases of `size` pixels.
    pub fn render(&self, frames: usize, size: u32) -> Vec<RgbImage> {
        let last = frames.saturating_sub(1).max(1) as f64;
        (0..frames)
            .map(|frame| self.frame(frame as f64 / last, size))
            .collect()
    }

    /// The picture at `t`, 0 to 1.
    pub fn frame(&self, t: f64, size: u32) -> RgbImage {
        self.frame_on(self.background.rgb, t, size)
    }

    /// The picture at `t`, 0 to 1, with its object and its background apart.
    pub fn layers(&self, t: f64, size: u32) -> Layers {
        Layers::of(self.background.rgb, |colour| self.frame_on(colour, t, size))
    }

    fn frame_on(&self, background: [u8; 3], t: f64, size: u32) -> RgbImage {
        let mut canvas = RgbImage::from_pixel(size, size, Rgb(background));
        let (art, left, top) = self.motion.pose(t).place(&self.object, size);
        art.composite_onto(&mut canvas, left, top);
        canvas
    }

    /// What is true of every frame, as a scene: the object on its background.
    pub fn still(&self) -> Scene {
        Scene {
            background: self.background,
            layout: Layout::Single {
                object: self.object,
                place: Place::MIDDLE,
                size: Size::Large,
            },
            // The shortest caption: size and place are not those of the frames.
            wording: 1 << 8 | 1,
        }
    }
}

/// Whether clockwise and anticlockwise look different: a ball turns unseen.
fn turns_visibly(object: &Emoji) -> bool {
    static TABLE: OnceLock<Vec<bool>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let visible = |object| turning_contrast(object) >= LEAST_TURNING_CONTRAST;
        emoji::inventory().par_iter().map(visible).collect()
    });
    let at = emoji::inventory().iter().position(|other| other == object);
    at.is_none_or(|at| table[at])
}

/// Part of the art's own strength. The inventory goes from cookie (0.03) and basketball (0.13) over
/// bear (0.26) and red heart (0.32) to crescent moon (1.41).
const LEAST_TURNING_CONTRAST: f64 = 0.3;

/// How much a turn one way differs from the same the other way: mean squared difference of the
/// frames, as a part of the art's mean square.
fn turning_contrast(object: &Emoji) -> f64 {
    const SIDE: u32 = 32;
    let values = |art: &Sprite| -> Vec<f64> {
        let values = art.pixels.iter().flatten();
        values.map(|value| f64::from(*value)).collect()
    };
    let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
    let whole = square(&values(&sprite(object, SIDE))).max(1.0);
    let at = |tenths: i32| {
        let [one, other] = [tenths, -tenths].map(|t| values(&turned_sprite(object, SIDE, t)));
        let apart: Vec<f64> = one.iter().zip(&other).map(|(a, b)| a - b).collect();
        square(&apart) / whole
    };
    // The last frame of both is the same half turn.
    (1..7).map(|frame| at(1800 * frame / 7)).sum::<f64>() / 6.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::nano::emoji::named;

    fn video(motion: Motion) -> Video {
        Video {
            object: *named("red heart").unwrap(),
            background: COLOURS[4],
            motion,
            wording: 0,
        }
    }

    /// The middle of what differs from the background, and how much does, in each frame.
    fn seen(video: &Video) -> Vec<(f64, f64, f64)> {
        let read = |frame: &RgbImage| {
            let object: Vec<(f64, f64)> = frame
                .enumerate_pixels()
                .filter(|(_, _, pixel)| pixel.0 != video.background.rgb)
                .map(|(x, y, _)| (f64::from(x), f64::from(y)))
                .collect();
            let count = object.len() as f64;
            let (x, y) = object
                .iter()
                .fold((0.0, 0.0), |sum, at| (sum.0 + at.0, sum.1 + at.1));
            (x / count, y / count, count)
        };
        video.render(8, 64).iter().map(read).collect()
    }

    #[test]
    fn what_is_said_to_move_moves_that_way() {
        for (motion, x, y, size) in [
            (Motion::Left, -1, 0, 0),
            (Motion::Right, 1, 0, 0),
            (Motion::Up, 0, -1, 0),
            (Motion::Down, 0, 1, 0),
            (Motion::Grow, 0, 0, 1),
            (Motion::Shrink, 0, 0, -1),
        ] {
            let seen = seen(&video(motion));
            for pair in seen.windows(2) {
                let way = |change: f64, least: f64| {
                    i32::from(change > least) - i32::from(change < -least)
                };
                assert_eq!(way(pair[1].0 - pair[0].0, 2.0), x, "{motion:?} {seen:?}");
                assert_eq!(way(pair[1].1 - pair[0].1, 2.0), y, "{motion:?} {seen:?}");
                assert_eq!(way(pair[1].2 - pair[0].2, 30.0), size, "{motion:?}");
            }
        }
        // The heart's tip, at first below, is then on the left when it turns clockwise.
        let [clockwise, back] = [Motion::Clockwise, Motion::Anticlockwise].map(|motion| {
            let frame = video(motion).frame(0.5, 64);
            let red = |x: u32| {
                let column = (0..64).filter(|y| frame.get_pixel(x, *y).0 != COLOURS[4].rgb);
                column.count()
            };
            (0..32).map(red).sum::<usize>() < (32..64).map(red).sum()
        });
        assert_eq!((clockwise, back), (true, false));
        assert_eq!(
            video(Motion::Clockwise).frame(0.0, 64),
            video(Motion::Anticlockwise).frame(0.0, 64)
        );
    }

    #[test]
    fn splits_share_no_combination_and_no_scene() {
        for index in 0..300 {
            let train = Video::sample(Split::Train, 1, index);
            assert_eq!(train.still().split(), Split::Train);
            for split in [Split::Train, Split::Validation, Split::Test] {
                let video = Video::sample(split, 1, index);
                assert_eq!(video.split(), Some(split));
                assert!([Split::Train, split].contains(&video.still().split()));
            }
        }
        // A turn that nobody can see is asked of nobody.
        let turns = |name| turns_visibly(named(name).unwrap());
        assert!(turns("red heart") && turns("rocket") && !turns("basketball"));
    }
}
