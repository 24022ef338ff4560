//! `vila-u reconstruct`: an image to codes and back.

use serde_json::json;
use vila_u::{Result, media};

use super::{check_file, check_not_input, pipeline};
use crate::{
    arguments::{Global, Reconstruct},
    console::Console,
};

pub fn run(global: &Global, args: &Reconstruct, console: &Console) -> Result<()> {
    check_file(&args.output, "png")?;
    check_not_input(&args.output, [&args.image])?;
    let pipeline = pipeline(global, console).vision_only().build()?;
    let back = pipeline.reconstruct(media::load(&args.image)?)?;
    let (psnr, ssim) = (back.psnr, back.ssim);
    let picture = if args.side_by_side {
        media::sheet::side_by_side(&[back.original, back.image])
    } else {
        back.image
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
