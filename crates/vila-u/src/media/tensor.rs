//! Images as tensors of pixels, and tensors as images.

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

use super::{
    Picture,
    preprocess::{ResizeMode, normalize, pixels},
    read::check_size,
    to_rgb,
};
use crate::{Result, device::read_floats};

/// What the vision tower sees of a picture, `[1, 3, size, size]` in -1..1.
///
/// ```
/// use vila_u::{device, image::RgbImage, media::{preprocess::ResizeMode, to_images, to_tensor}};
///
/// let device = device::select("cpu")?;
/// let pixels = to_tensor(&RgbImage::new(90, 40).into(), 64, ResizeMode::Stretch, &device)?;
/// assert_eq!(pixels.dims(), [1, 3, 64, 64]);
/// assert_eq!(to_images(pixels)?[0].dimensions(), (64, 64));
/// # Ok::<(), vila_u::Error>(())
/// ```
///
/// A usage error for a picture without pixels, or with more than are read of a file.
pub fn to_tensor(
    picture: &Picture,
    size: usize,
    mode: ResizeMode,
    device: &Device,
) -> Result<Tensor<4>> {
    let (width, height) = picture.dimensions();
    check_size(width, height)?;
    let pixels = pixels(picture, size as u32, mode);
    Ok(Tensor::from_data(
        TensorData::new(pixels, [1, 3, size, size]),
        device,
    ))
}

/// Images of `size x size` pixels as `[images, 3, size, size]` in -1..1.
pub(crate) fn stack(images: &[RgbImage], size: usize, device: &Device) -> Tensor<4> {
    let pixels: Vec<f32> = images.iter().flat_map(normalize).collect();
    let shape = [images.len(), 3, size, size];
    Tensor::from_data(TensorData::new(pixels, shape), device)
}

/// `[images, 3, height, width]`, about -1..1 but not bounded, as images.
pub fn to_images(pixels: Tensor<4>) -> Result<Vec<RgbImage>> {
    let [_, channels, height, width] = pixels.dims();
    let values = read_floats(pixels)?;
    let images = values.chunks_exact(channels * height * width);
    Ok(images
        .map(|values| to_rgb(values, width as u32, height as u32))
        .collect())
}
