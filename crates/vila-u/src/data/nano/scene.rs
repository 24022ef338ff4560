//! What is in a picture of the nano world, how it is sampled, and how it is rendered.

use std::sync::OnceLock;

use image::{Rgb, RgbImage};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    Emoji, Split, emoji,
    sprite::{Sprite, sprite},
    stable_hash,
};
use crate::data::Layers;

/// A background colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    pub name: &'static str,
    pub rgb: [u8; 3],
}

/// The backgrounds, well apart from each other.
pub const COLOURS: [Colour; 9] = [
    colour("red", [214, 40, 48]),
    colour("orange", [250, 140, 22]),
    colour("yellow", [252, 220, 60]),
    colour("green", [46, 160, 67]),
    colour("blue", [38, 98, 217]),
    colour("purple", [128, 62, 176]),
    colour("pink", [255, 168, 200]),
    colour("white", [255, 255, 255]),
    colour("black", [18, 18, 22]),
];

const fn colour(name: &'static str, rgb: [u8; 3]) -> Colour {
    Colour { name, rgb }
}

/// One of nine places; `column` and `row` are 0 (left, top), 1 (middle) or 2 (right, bottom).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub column: u8,
    pub row: u8,
}

impl Place {
    pub const MIDDLE: Self = Self { column: 1, row: 1 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Small,
    Medium,
    Large,
}

impl Size {
    /// Side of the object as a part of the canvas.
    pub fn fraction(self) -> f64 {
        match self {
            Self::Small => 0.28,
            Self::Medium => 0.44,
            Self::Large => 0.72,
        }
    }
}

/// Where the first object of a pair is, seen from the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

/// What the picture holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// One object. A large one is always in the middle.
    Single {
        object: Emoji,
        place: Place,
        size: Size,
    },
    /// Two to four copies of one object; each corner is (left, top) as a part of the canvas.
    Copies {
        object: Emoji,
        side: f64,
        corners: Vec<(f64, f64)>,
    },
    /// Two different objects: `first` is `relation` `second`.
    Pair {
        first: Emoji,
        second: Emoji,
        relation: Relation,
    },
    /// One gallery emoji anywhere: (left, top, side) as parts of the canvas.
    Free {
        object: Emoji,
        left: f64,
        top: f64,
        side: f64,
    },
}

/// One picture of the nano world and the truth about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub background: Colour,
    pub layout: Layout,
    /// Chooses among the ways to say the same.
    pub(super) wording: u64,
}

/// Space between an object at the edge and the edge.
const MARGIN: f64 = 0.03;

impl Scene {
    /// Scene `index` of a split: the same for the same arguments, always.
    pub fn sample(split: Split, seed: u64, index: u64) -> Self {
        let mut rng = rng("scene", split, seed, index);
        loop {
            let scene = Self::propose(&mut rng);
            if scene.split() == split && scene.visible() {
                return scene;
            }
        }
    }

    /// One gallery emoji at any place and size.
    pub fn sample_gallery(split: Split, seed: u64, index: u64) -> Self {
        let mut rng = rng("gallery", split, seed, index);
        let list = emoji::gallery(split);
        let side = [0.28, 0.36, 0.44, 0.58, 0.72, 0.86][rng.random_range(0..6)];
        Self {
            background: *pick(&mut rng, &COLOURS),
            layout: Layout::Free {
                object: *pick(&mut rng, list),
                left: rng.random::<f64>() * (1.0 - side),
                top: rng.random::<f64>() * (1.0 - side),
                side,
            },
            wording: rng.random(),
        }
    }

    /// The plainest scene: one large object in the middle.
    pub fn plain(object: Emoji, background: Colour) -> Self {
        let (place, size) = (Place::MIDDLE, Size::Large);
        Self {
            background,
            layout: Layout::Single {
                object,
                place,
                size,
            },
            wording: 0,
        }
    }

    fn propose(rng: &mut ChaCha8Rng) -> Self {
        let object = *pick(rng, emoji::inventory());
        let layout = match rng.random_range(0..100) {
            0..40 => {
                let (place, size) = (Place::MIDDLE, Size::Large);
                Layout::Single {
                    object,
                    place,
                    size,
                }
            }
            40..65 => Layout::Single {
                object,
                place: Place {
                    column: rng.random_range(0..3),
                    row: rng.random_range(0..3),
                },
                size: *pick(rng, &[Size::Small, Size::Medium]),
            },
            65..85 => {
                let (side, corners) = arrangement(rng);
                Layout::Copies {
                    object,
                    side,
                    corners,
                }
            }
            _ => Layout::Pair {
                first: object,
                second: *pick(rng, emoji::inventory()),
                relation: *pick(
                    rng,
                    &[
                        Relation::LeftOf,
                        Relation::RightOf,
                        Relation::Above,
                        Relation::Below,
                    ],
                ),
            },
        };
        Self {
            background: *pick(rng, &COLOURS),
            layout,
            wording: rng.random(),
        }
    }

    /// The split that this combination belongs to. Place and size are no part of the key: a held-out object on a
    /// held-out colour is unseen in every place and size.
    pub fn split(&self) -> Split {
        let colour = self.background.name;
        let key = match &self.layout {
            Layout::Single { object, .. } => format!("{}|{colour}|1", object.name),
            Layout::Copies {
                object, corners, ..
            } => format!("{}|{colour}|{}", object.name, corners.len()),
            Layout::Pair {
                first,
                second,
                relation,
            } => match relation {
                Relation::LeftOf => format!("{}|left|{}|{colour}", first.name, second.name),
                Relation::RightOf => format!("{}|left|{}|{colour}", second.name, first.name),
                Relation::Above => format!("{}|above|{}|{colour}", first.name, second.name),
                Relation::Below => format!("{}|above|{}|{colour}", second.name, first.name),
            },
            Layout::Free { object, .. } => return emoji::gallery_split(object),
        };
        Split::of(&key, 10)
    }

    /// Whether every object stands out from the background, and a pair is of two objects.
    pub(super) fn visible(&self) -> bool {
        let stands_out = |object: &Emoji| stands_out(object, self.background);
        match &self.layout {
            Layout::Single { object, .. } | Layout::Copies { object, .. } => stands_out(object),
            Layout::Pair { first, second, .. } => {
                first != second && stands_out(first) && stands_out(second)
            }
            Layout::Free { .. } => true,
        }
    }

    /// How many copies of the (first) object there are.
    pub fn count(&self) -> usize {
        match &self.layout {
            Layout::Copies { corners, .. } => corners.len(),
            _ => 1,
        }
    }

    /// Renders the scene on a square canvas of `size` pixels.
    pub fn render(&self, size: u32) -> RgbImage {
        self.render_on(self.background.rgb, size)
    }

    /// Its objects and its background apart.
    pub fn layers(&self, size: u32) -> Layers {
        Layers::of(self.background.rgb, |colour| self.render_on(colour, size))
    }

    fn render_on(&self, background: [u8; 3], size: u32) -> RgbImage {
        let mut canvas = RgbImage::from_pixel(size, size, Rgb(background));
        for (object, left, top, side) in self.placements() {
            let pixels = |part: f64| (part * f64::from(size)).round();
            let art = sprite(&object, pixels(side).max(1.0) as u32);
            art.composite_onto(&mut canvas, pixels(left) as i64, pixels(top) as i64);
        }
        canvas
    }

    /// Every object in it: (object, left, top, side), the last three as parts of the canvas.
    pub fn placements(&self) -> Vec<(Emoji, f64, f64, f64)> {
        match &self.layout {
            Layout::Single {
                object,
                place,
                size,
            } => {
                let side = size.fraction();
                let (left, top) = (along(place.column, side), along(place.row, side));
                vec![(*object, left, top, side)]
            }
            Layout::Copies {
                object,
                side,
                corners,
            } => corners
                .iter()
                .map(|&(left, top)| (*object, left, top, *side))
                .collect(),
            Layout::Pair {
                first,
                second,
                relation,
            } => {
                let side = Size::Medium.fraction();
                let [start, middle, end] = [0, 1, 2].map(|step| along(step, side));
                let (a, b) = match relation {
                    Relation::LeftOf => ((start, middle), (end, middle)),
                    Relation::RightOf => ((end, middle), (start, middle)),
                    Relation::Above => ((middle, start), (middle, end)),
                    Relation::Below => ((middle, end), (middle, start)),
                };
                vec![(*first, a.0, a.1, side), (*second, b.0, b.1, side)]
            }
            &Layout::Free {
                object,
                left,
                top,
                side,
            } => vec![(object, left, top, side)],
        }
    }
}

/// Left (or top) edge of an object of that side at step 0 (start), 1 (middle) or 2 (end).
pub(super) fn along(step: u8, side: f64) -> f64 {
    match step {
        0 => MARGIN,
        1 => (1.0 - side) / 2.0,
        _ => 1.0 - MARGIN - side,
    }
}

/// Two to four copies, in one of the ways they fit: (side, corners).
fn arrangement(rng: &mut ChaCha8Rng) -> (f64, Vec<(f64, f64)>) {
    let count: i32 = rng.random_range(2..=4);
    copies(rng, count as usize)
}

/// That many copies, two to four, in one of the ways they fit: (side, corners).
pub(super) fn copies(rng: &mut ChaCha8Rng, count: usize) -> (f64, Vec<(f64, f64)>) {
    let side = Size::Medium.fraction();
    let [a, m, z] = [0, 1, 2].map(|step| along(step, side));
    let ways: &[&[(f64, f64)]] = match count {
        2 => &[&[(a, m), (z, m)], &[(m, a), (m, z)]],
        3 => &[&[(m, a), (a, z), (z, z)]],
        _ => &[&[(a, a), (z, a), (a, z), (z, z)]],
    };
    (side, pick(rng, ways).to_vec())
}

/// Whether at least two fifths of the object's pixels differ clearly from the background.
pub fn stands_out(object: &Emoji, background: Colour) -> bool {
    static TABLE: OnceLock<Vec<Vec<bool>>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let visible = |object| {
            let art = sprite(object, 32);
            COLOURS
                .iter()
                .map(|colour| contrast(&art, *colour) >= 0.4)
                .collect()
        };
        emoji::inventory().par_iter().map(visible).collect()
    });
    let row = emoji::inventory().iter().position(|other| other == object);
    let column = COLOURS.iter().position(|other| *other == background);
    row.zip(column)
        .is_none_or(|(row, column)| table[row][column])
}

/// Part of the opaque pixels that differ from the colour by more than 56 of 255 in some channel.
fn contrast(art: &Sprite, colour: Colour) -> f64 {
    let opaque = art.pixels.iter().filter(|pixel| pixel[3] > 200);
    let (mut all, mut clear) = (0, 0);
    for pixel in opaque {
        all += 1;
        let apart = colour
            .rgb
            .iter()
            .zip(pixel)
            .any(|(a, b)| a.abs_diff(*b) > 56);
        clear += usize::from(apart);
    }
    clear as f64 / all.max(1) as f64
}

pub(super) fn rng(what: &str, split: Split, seed: u64, index: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(stable_hash(&format!("{what}|{split:?}|{seed}|{index}")))
}

/// One of a list that is never empty.
pub(super) fn pick<'a, T>(rng: &mut ChaCha8Rng, list: &'a [T]) -> &'a T {
    list.choose(rng).unwrap_or(&list[0])
}
