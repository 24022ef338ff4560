//! Sample sheets of the language model's stages: held-out pictures, and below each what the model generates from
//! its caption.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};

use super::multimodal::MultimodalObjective;
use crate::Result;
use crate::generation::chat::{generate_images, generate_videos};
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
    /// The same of the frames of videos. Nothing where no held-out sample is a picture or a video from a caption.
    pub(super) fn save_sheet(&self, model: &VilaU, path: &Path) -> Result<()> {
        let (tokenizer, options) = (&self.samples.tokenizer, &self.generation);
        let (mut expected, mut generated) = (Vec::new(), Vec::<Tensor<4>>::new());
        let (prompts, pixels) = self.prompts(1, SHOWN);
        if !prompts.is_empty() {
            expected.extend(pixels);
            let images = generate_images(model, tokenizer, &prompts, options, &mut |_| {
                ControlFlow::Continue(())
            })?;
            generated.push(images.pixels.squeeze_dim(1));
        }
        let (prompts, pixels) = self.prompts(VIDEO_FRAMES, SHOWN_VIDEOS);
        if !prompts.is_empty() {
            expected.extend(pixels);
            let videos = generate_videos(
                model,
                tokenizer,
                &prompts,
                VIDEO_FRAMES,
                options,
                &mut |_| ControlFlow::Continue(()),
            )?;
            generated.push(videos.pixels.flatten(0, 1));
        }
        if generated.is_empty() {
            return Ok(());
        }
        let generated = Tensor::cat(generated, 0);
        let size = self.samples.size();
        let expected = TensorData::new(expected, [generated.dims()[0], 3, size, size]);
        let expected = Tensor::from_data(expected, &generated.device());
        save_sheet(path, expected, generated)
    }

    /// The prompts of the first `count` held-out samples that are so many pictures from a caption, and the
    /// pixels of these.
    fn prompts(&self, pictures: usize, count: usize) -> (Vec<Vec<i64>>, Vec<f32>) {
        let prompt = |example: &Example| -> Option<(Vec<i64>, Vec<f32>)> {
            let ids = example.sample.ids();
            let at = ids.iter().position(|id| *id == IMAGE_ID)?;
            let images = example.sample.images();
            let generated = images.iter().all(|role| matches!(role, Role::Target));
            let wanted = generated && images.len() == pictures;
            wanted.then(|| (ids[..at].to_vec(), example.pixels.clone()))
        };
        let wanted = self.held_out.generated().filter_map(prompt).take(count);
        let (prompts, pixels): (_, Vec<_>) = wanted.unzip();
        (prompts, pixels.concat())
    }
}
