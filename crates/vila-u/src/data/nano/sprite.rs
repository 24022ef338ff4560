//! Emoji rasterised once per size and rotation, kept in memory, and composited onto scenes.

use std::{
    collections::HashMap,
    f64::consts::SQRT_2,
    sync::{Arc, LazyLock, RwLock},
};

use image::{Rgb, RgbImage};
use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg,
};

use super::Emoji;

/// A square of premultiplied RGBA, row by row.
pub(crate) struct Sprite {
    pub side: u32,
    pub pixels: Vec<[u8; 4]>,
}

/// The emoji at `side` x `side` pixels.
pub(crate) fn sprite(emoji: &Emoji, side: u32) -> Arc<Sprite> {
    turned_sprite(emoji, side, 0)
}

/// The emoji at `side` x `side` pixels, turned clockwise about its middle by so many tenths of a
/// degree. Turned art is given a larger square, by as much on every side, so that no corner is lost.
pub(crate) fn turned_sprite(emoji: &Emoji, side: u32, tenths: i32) -> Arc<Sprite> {
    type Cache = RwLock<HashMap<(char, u32, i32), Arc<Sprite>>>;
    static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);
    let key = (emoji.character, side, tenths.rem_euclid(3600));
    if let Some(found) = CACHE.read().ok().and_then(|cache| cache.get(&key).cloned()) {
        return found;
    }
    let art = Arc::new(rasterise(emoji, side, key.2));
    if let Ok(mut cache) = CACHE.write() {
        cache.insert(key, art.clone());
    }
    art
}

/// The art is built in, so rasterising it cannot fail; a test does so with every emoji.
fn rasterise(emoji: &Emoji, side: u32, tenths: i32) -> Sprite {
    let border = match tenths {
        0 => 0,
        _ => (f64::from(side) * (SQRT_2 - 1.0) / 2.0).ceil() as u32,
    };
    let whole = side + 2 * border;
    let mut pixels = vec![[0; 4]; (whole * whole) as usize];
    let tree = usvg::Tree::from_str(emoji.svg, &usvg::Options::default());
    if let (Ok(tree), Some(mut pixmap)) = (tree, Pixmap::new(whole, whole)) {
        let scale = |extent: f32| side as f32 / extent;
        let mut place =
            Transform::from_scale(scale(tree.size().width()), scale(tree.size().height()));
        if tenths != 0 {
            let middle = side as f32 / 2.0;
            place = place
                .post_concat(Transform::from_rotate_at(
                    tenths as f32 / 10.0,
                    middle,
                    middle,
                ))
                .post_translate(border as f32, border as f32);
        }
        resvg::render(&tree, place, &mut pixmap.as_mut());
        for (pixel, rgba) in pixels.iter_mut().zip(pixmap.data().chunks_exact(4)) {
            pixel.copy_from_slice(rgba);
        }
    }
    Sprite {
        side: whole,
        pixels,
    }
}
impl Sprite {
    /// Composites the sprite with its top left corner at (`left`, `top`); what falls outside is cut off.
    pub(crate) fn composite_onto(&self, canvas: &mut RgbImage, left: i64, top: i64) {
        let (width, height) = (i64::from(canvas.width()), i64::from(canvas.height()));
        for (index, &[red, green, blue, alpha]) in self.pixels.iter().enumerate() {
            let x = left + index as i64 % i64::from(self.side);
            let y = top + index as i64 / i64::from(self.side);
            if alpha == 0 || x < 0 || y < 0 || x >= width || y >= height {
                continue;
            }
            let Rgb(below) = canvas.get_pixel_mut(x as u32, y as u32);
            for (under, over) in below.iter_mut().zip([red, green, blue]) {
                let rest = u32::from(*under) * (255 - u32::from(alpha));
                *under = (u32::from(over) + (rest + 127) / 255).min(255) as u8;
            }
        }
    }
}
