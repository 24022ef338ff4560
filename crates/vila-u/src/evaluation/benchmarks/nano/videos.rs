//! Videos through codes and back, and made from captions.

use std::ops::ControlFlow;

use image::RgbImage;
use rayon::prelude::*;

use super::{Bench, GeneratedVideos, right_of, watch};
use crate::{
    Result,
    data::nano::Video,
    generation::chat::{generate_videos, video_prompt},
    media::{sheet, to_images},
    sequence::templates::VIDEO_FRAMES,
};

/// Videos the model makes at once.
const BATCH: usize = 8;
/// Videos on a contact sheet, a row each.
const SHOWN: usize = 12;

impl Bench<'_> {
    /// Encodes and decodes every frame, and reads the videos back.
    pub(super) fn video_reconstruction(&mut self, videos: &[Video]) -> Result<GeneratedVideos> {
        let tower = &self.checkpoint.model.vision_tower.rqvaesiglip;
        let mut made = Vec::new();
        for (index, video) in videos.iter().enumerate() {
            let frames = video.render(VIDEO_FRAMES, self.size as u32);
            let quantized = tower.encode(self.pixels(&frames));
            made.push(to_images(tower.decode(quantized.z_q))?);
            self.progress("videos through codes", index + 1, videos.len())?;
        }
        Ok(judged(videos, &made))
    }

    /// Makes the videos from their captions and reads them back. Also a contact sheet.
    pub(super) fn video_generation(
        &mut self,
        videos: &[Video],
    ) -> Result<(GeneratedVideos, RgbImage)> {
        let checkpoint = self.checkpoint;
        let mut made: Vec<Vec<RgbImage>> = Vec::new();
        for (batch, now) in videos.chunks(BATCH).enumerate() {
            let mut prompts = Vec::new();
            for video in now {
                let caption = video.caption();
                prompts.push(video_prompt(&checkpoint.tokenizer, &caption)?);
            }
            let seed = self.seed.wrapping_add(batch as u64);
            let options = checkpoint.generation.visual(seed);
            let on_progress = &mut self.on_progress;
            let generated = generate_videos(
                &checkpoint.model,
                &checkpoint.tokenizer,
                &prompts,
                VIDEO_FRAMES,
                &options,
                &mut |progress| {
                    let done = batch * BATCH + now.len() * progress.done / progress.total;
                    if on_progress("video generation", done, videos.len()) {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                },
            )?;
            let frames = to_images(generated.pixels.flatten(0, 1))?;
            made.extend(frames.chunks(VIDEO_FRAMES).map(<[RgbImage]>::to_vec));
        }
        let generated = judged(videos, &made);
        let shown: Vec<RgbImage> = made.into_iter().take(SHOWN).flatten().collect();
        Ok((generated, sheet::grid(&shown, VIDEO_FRAMES)))
    }
}

/// How many of the videos show what was wanted.
fn judged(wanted: &[Video], made: &[Vec<RgbImage>]) -> GeneratedVideos {
    let seen: Vec<_> = made.par_iter().map(|frames| watch::watch(frames)).collect();
    let count = |right: &dyn Fn(&Video, &watch::Watched) -> bool| {
        let checked = wanted.iter().zip(&seen);
        let right: Vec<bool> = checked.map(|(wanted, seen)| right(wanted, seen)).collect();
        right_of(&right)
    };
    GeneratedVideos {
        object: count(&|wanted, seen| seen.objects.iter().all(|object| *object == wanted.object)),
        background: count(&|wanted, seen| {
            let mut backgrounds = seen.backgrounds.iter();
            backgrounds.all(|background| *background == wanted.background)
        }),
        motion: count(&|wanted, seen| seen.motion == Some(wanted.motion)),
    }
}
