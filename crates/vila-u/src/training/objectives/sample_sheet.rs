//! Sample sheets of the language model's stages: held-out pictures, and below each what the model generates from
//! its caption.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};

use super::multimodal::MultimodalObjective;
use crate::Result;
use crate::data::nano::{Scene, Split, Video};
use crate::generation::chat::{generate_images, generate_videos, image_prompt, video_prompt};
use crate::media::preprocess::normalize;
use crate::model::VilaU;
use crate::sequence::Role;
use crate::sequence::templates::VIDEO_FRAMES;
use crate::text::IMAGE_ID;
use crate::training::data::samples::Example;
use crate::training::run_folder::sample_sheet::save_sheet;

/// Pictures and videos generated for a sheet.
const SHOWN: usize = 8;
const SHOWN_VIDEOS: usize = 2;

impl MultimodalObjective {
    /// The same of the frames of videos, if the model learns to generate them. Nothing where no held-out sample
    /// is a picture from a caption.
    pub(super) fn save_sheet(&self, model: &VilaU, path: &Path) -> Result<()> {
        let mut expected = Vec::new();
        let mut prompts = Vec::new();
        match &self.held_out {
            Some(held_out) => {
                for (prompt, example) in held_out.iter().filter_map(prompt).take(SHOWN) {
                    expected.extend_from_slice(&example.pixels);
                    prompts.push(prompt);
                }
            }
            None => {
                for index in 0..SHOWN as u64 {
                    let scene = Scene::sample(Split::Validation, 0, index);
                    expected.extend(normalize(&scene.render(self.samples.size() as u32)));
                    prompts.push(image_prompt(&self.samples.tokenizer, &scene.caption())?);
                }
            }
        }
        if prompts.is_empty() {
            return Ok(());
        }
        let (tokenizer, options) = (&self.samples.tokenizer, &self.generation);
        let images = generate_images(model, tokenizer, &prompts, options, &mut |_| {
            ControlFlow::Continue(())
        })?;
        let mut generated: Tensor<4> = images.pixels.squeeze_dim(1);
        if let Some((frames, videos)) = self.videos(model)? {
            expected.extend(frames);
            generated = Tensor::cat(vec![generated, videos], 0);
        }
        let size = self.samples.size();
        let expected = TensorData::new(expected, [generated.dims()[0], 3, size, size]);
        let expected = Tensor::from_data(expected, &generated.device());
        save_sheet(path, expected, generated)
    }

    /// Held-out videos, frame after frame, and those that the model generates from their captions.
    fn videos(&self, model: &VilaU) -> Result<Option<(Vec<f32>, Tensor<4>)>> {
        let objective = self.samples.objective();
        if self.held_out.is_some() || objective.is_none_or(|objective| objective.video == 0.0) {
            return Ok(None);
        }
        let size = self.samples.size() as u32;
        let videos =
            (0..SHOWN_VIDEOS as u64).map(|index| Video::sample(Split::Validation, 0, index));
        let videos: Vec<Video> = videos.collect();
        let frames = videos
            .iter()
            .flat_map(|video| video.render(VIDEO_FRAMES, size));
        let expected = frames.flat_map(|frame| normalize(&frame)).collect();
        let tokenizer = &self.samples.tokenizer;
        let prompts = videos
            .iter()
            .map(|video| video_prompt(tokenizer, &video.caption()));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let generated = generate_videos(
            model,
            tokenizer,
            &prompts,
            VIDEO_FRAMES,
            &self.generation,
            &mut |_| ControlFlow::Continue(()),
        )?;
        Ok(Some((expected, generated.pixels.flatten(0, 1))))
    }
}

/// The prompt of a sample that is one picture from text.
fn prompt(example: &Example) -> Option<(Vec<i64>, &Example)> {
    let ids = example.sample.ids();
    let at = ids.iter().position(|id| *id == IMAGE_ID)?;
    let generates = matches!(example.sample.images()[..], [Role::Target]);
    generates.then(|| (ids[..at].to_vec(), example))
}
