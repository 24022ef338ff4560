//! What the frames of an animation are put on.

use image::RgbaImage;

/// A part of the canvas, perhaps beyond its edges.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// Nothing to be seen.
pub(super) const CLEAR: [u8; 4] = [0; 4];

impl Part {
    pub(super) fn covers(&self, canvas: &RgbaImage) -> bool {
        (self.left, self.top) == (0, 0) && (self.width, self.height) == canvas.dimensions()
    }

    pub(super) fn contains(&self, x: u32, y: u32) -> bool {
        let inside = |at: u32, start: u32, size: u32| at >= start && at - start < size;
        inside(x, self.left, self.width) && inside(y, self.top, self.height)
    }

    pub(super) fn fill(&self, canvas: &mut RgbaImage, colour: [u8; 4]) {
        let end = |start: u32, size: u32, edge: u32| start.saturating_add(size).min(edge);
        for y in self.top..end(self.top, self.height, canvas.height()) {
            for x in self.left..end(self.left, self.width, canvas.width()) {
                canvas.get_pixel_mut(x, y).0 = colour;
            }
        }
    }

    /// Puts a picture in its place: `mix` makes of a pixel, and of what is at that place of the canvas, what is to be
    /// seen. What lies outside of the canvas is not.
    pub(super) fn draw(
        &self,
        picture: &RgbaImage,
        canvas: &mut RgbaImage,
        mix: impl Fn([u8; 4], [u8; 4], (u32, u32)) -> [u8; 4],
    ) {
        for (x, y, pixel) in picture.enumerate_pixels() {
            let (x, y) = (self.left.saturating_add(x), self.top.saturating_add(y));
            if let Some(below) = canvas.get_pixel_mut_checked(x, y) {
                below.0 = mix(pixel.0, below.0, (x, y));
            }
        }
    }
}
