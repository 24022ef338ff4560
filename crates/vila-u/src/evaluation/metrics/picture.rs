//! How close a picture is to its original.

use image::RgbImage;

/// Peak signal-to-noise ratio in dB, `10 log10(255^2 / mse)` over all channels: infinite for equal
/// pictures. None where the sizes differ.
pub fn psnr(original: &RgbImage, other: &RgbImage) -> Option<f64> {
    if original.dimensions() != other.dimensions() {
        return None;
    }
    let squares = original.iter().zip(other.iter()).map(|(a, b)| {
        let difference = f64::from(*a) - f64::from(*b);
        difference * difference
    });
    let mse = squares.sum::<f64>() / original.len() as f64;
    Some(10.0 * (255.0 * 255.0 / mse).log10())
}

/// Width of the window of [`ssim`].
const WINDOW: usize = 11;

/// Structural similarity (Wang et al. 2004): Gaussian window of 11 x 11 with sigma 1.5, windows that
/// fit wholly into the picture, mean over windows and channels. 1 for equal pictures. None where the sizes differ, or
/// pictures are smaller than the window.
pub fn ssim(original: &RgbImage, other: &RgbImage) -> Option<f64> {
    let (width, height) = (original.width() as usize, original.height() as usize);
    if original.dimensions() != other.dimensions() || width.min(height) < WINDOW {
        return None;
    }
    const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
    const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);
    let mut sum = 0.0;
    for channel in 0..3 {
        let plane = |picture: &RgbImage| -> Vec<f64> {
            picture
                .pixels()
                .map(|pixel| f64::from(pixel[channel]))
                .collect()
        };
        let (a, b) = (plane(original), plane(other));
        let product = |x: &[f64], y: &[f64]| -> Vec<f64> {
            let products: Vec<f64> = x.iter().zip(y).map(|(x, y)| x * y).collect();
            blur(&products, width)
        };
        let (mean_a, mean_b) = (blur(&a, width), blur(&b, width));
        let (aa, bb, ab) = (product(&a, &a), product(&b, &b), product(&a, &b));
        let mut total = 0.0;
        for i in 0..mean_a.len() {
            let (ma, mb) = (mean_a[i], mean_b[i]);
            let (var_a, var_b, covariance) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
            total += (2.0 * ma * mb + C1) * (2.0 * covariance + C2)
                / ((ma * ma + mb * mb + C1) * (var_a + var_b + C2));
        }
        sum += total / mean_a.len() as f64;
    }
    Some(sum / 3.0)
}

/// The Gaussian mean of every window that fits into rows of `width` values.
fn blur(values: &[f64], width: usize) -> Vec<f64> {
    let kernel: Vec<f64> = (0..WINDOW)
        .map(|at| at as f64 - (WINDOW / 2) as f64)
        .map(|offset| (-offset * offset / (2.0 * 1.5 * 1.5)).exp())
        .collect();
    let total: f64 = kernel.iter().sum();
    let weigh = |at: &dyn Fn(usize) -> f64| -> f64 {
        let weighted = kernel
            .iter()
            .enumerate()
            .map(|(step, weight)| weight * at(step));
        weighted.sum::<f64>() / total
    };
    let inner = width - WINDOW + 1;
    let mut rows = Vec::new();
    for row in values.chunks_exact(width) {
        rows.extend((0..inner).map(|x| weigh(&|step| row[x + step])));
    }
    let windows = rows.len() / inner - WINDOW + 1;
    (0..windows * inner)
        .map(|at| weigh(&|step| rows[at + step * inner]))
        .collect()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// The values of scikit-image 0.26: `peak_signal_noise_ratio`, and `structural_similarity` with
    /// `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2`.
    #[test]
    fn agrees_with_scikit_image() {
        let wave = |phase: u32| {
            RgbImage::from_fn(20, 16, |x, y| {
                let value = |k: u32| ((x * (3 + k) + y * y * (2 + k) + phase * k) * 7 % 256) as u8;
                Rgb([value(0), value(1), value(2)])
            })
        };
        let (a, b) = (wave(0), wave(1));
        for (measured, expected) in [
            (psnr(&a, &b), 16.542_155_037_867_396),
            (ssim(&a, &b), 0.886_309_781_382_555_7),
        ] {
            let close = measured.is_some_and(|measured| (measured - expected).abs() < 1e-9);
            assert!(close, "{measured:?}, not {expected}");
        }
        assert_eq!(
            (psnr(&a, &a), ssim(&a, &a)),
            (Some(f64::INFINITY), Some(1.0))
        );
        let small = RgbImage::new(10, 10);
        assert_eq!((psnr(&a, &small), ssim(&a, &small)), (None, None));
        assert_eq!(ssim(&small, &small), None);
    }
}
