//! `vila-u reconstruct`: an image to codes and back.

use serde_json::json;
use vila_u::{
    Result,
    evaluation::metrics::{psnr, ssim},
    media::{self, preprocess::ResizeMode},
};

use super::{check_file, generate::to_picture, load_tower, read_pixels};
use crate::{
    arguments::{Global, Reconstruct},
    console::Console,
};

pub fn run(global: &Global, args: &Reconstruct, console: &Console) -> Result<()> {
    check_file(&args.output, "png")?;
    let tower = load_tower(global, console)?;
    let size = tower.siglip.vision_config.image_size;
    let model = &tower.model;
    let pixels = read_pixels(
        &args.image,
        size,
        ResizeMode::Stretch,
        &model.post_quant_conv.weight.device(),
    )?;
    let back = to_picture(model.decode(model.encode(pixels.clone()).z_q))?;
    let original = to_picture(pixels)?;
    // A decoder's pictures may be larger than the encoder's, and SSIM looks at 11 x 11 pixels at a time.
    let same = original.dimensions() == back.dimensions();
    let psnr = same.then(|| psnr(&original, &back));
    let ssim = (same && original.width() >= 11).then(|| ssim(&original, &back));
    let picture = if args.side_by_side {
        media::sheet::side_by_side(&[original, back])
    } else {
        back
    };
    media::save_png(&args.output, &picture)?;
    let file = args.output.display().to_string();
    console.result(
        format!(
            "{file}: PSNR {} dB, SSIM {}",
            psnr.map_or("-".into(), |psnr| format!("{psnr:.2}")),
            ssim.map_or("-".into(), |ssim| format!("{ssim:.4}"))
        ),
        json!({"file": file, "psnr": psnr, "ssim": ssim}),
    )
}
