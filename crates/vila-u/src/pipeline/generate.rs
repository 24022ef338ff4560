//! Images and videos from a text.

use std::ops::ControlFlow;

use image::RgbImage;

use super::{Codes, GenerateOptions, Pipeline};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    generation::{
        chat,
        memory::MemoryEstimate,
        visual::{Progress, VisualOutput},
    },
    media::to_images,
};

/// A generated image, which has one frame, or a video.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Generated {
    pub frames: Vec<RgbImage>,
    /// Of every frame.
    pub codes: Vec<Codes>,
}

/// What happens while images or videos are generated.
#[non_exhaustive]
pub enum GenerateEvent<'a> {
    /// One more visual token of every image of the batch.
    Progress(GenerationProgress<'a>),
    /// A finished image or video, in their order.
    Done(Generated),
}

/// Images or videos under way.
pub struct GenerationProgress<'a> {
    /// Visual tokens sampled so far, of `total`, those of all images together.
    pub done: usize,
    pub total: usize,
    pub(super) batch: &'a Progress<'a>,
}

impl GenerationProgress<'_> {
    /// The images generated together as they would look if nothing more came; of videos every frame. Takes the time
    /// of decoding them.
    pub fn preview(&self) -> Result<Vec<RgbImage>> {
        to_images(self.batch.preview().flatten(0, 1))
    }
}

impl Generated {
    /// Each of the images or videos that were generated together.
    pub(crate) fn read(output: &VisualOutput) -> Result<Vec<Self>> {
        let [n, frames, ..] = output.codes.dims();
        let mut images = to_images(output.pixels.clone().flatten(0, 1))?.into_iter();
        let mut codes = Codes::read(output.codes.clone().flatten(0, 1))?.into_iter();
        let one = |_| Self {
            frames: images.by_ref().take(frames).collect(),
            codes: codes.by_ref().take(frames).collect(),
        };
        Ok((0..n).map(one).collect())
    }
}

impl Pipeline {
    /// Generates `n` images of a description. Image `i` depends on the seed and on `i`, not on `n`.
    ///
    /// A usage error for `n = 0`, a prompt with the placeholder `<image>` or `<video>`, and options that are out of
    /// range.
    ///
    /// ```
    /// # use vila_u::{GenerateOptions, Pipeline};
    /// # let pipeline = Pipeline::from_pretrained("nano")?;
    /// let images = pipeline.generate_images("a red heart", 1, &GenerateOptions::default())?;
    /// assert_eq!(images[0].dimensions(), (64, 64));
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn generate_images(
        &self,
        prompt: &str,
        n: usize,
        options: &GenerateOptions,
    ) -> Result<Vec<RgbImage>> {
        let mut images = Vec::new();
        self.generate_images_stream(prompt, n, options, &mut |event| {
            if let GenerateEvent::Done(image) = event {
                images.extend(image.frames);
            }
            ControlFlow::Continue(())
        })?;
        Ok(images)
    }

    /// The same, told of every step, with the codes of the images. They are generated in batches that fit into
    /// memory, and each is handed over as soon as its batch is finished.
    ///
    /// [`ControlFlow::Break`] ends it with [`Error::Interrupted`].
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use vila_u::{GenerateEvent, GenerateOptions, Pipeline};
    /// # let pipeline = Pipeline::from_pretrained("nano")?;
    /// pipeline.generate_images_stream("a dog", 1, &GenerateOptions::default(), &mut |event| {
    ///     match event {
    ///         GenerateEvent::Progress(progress) => println!("{} of {}", progress.done, progress.total),
    ///         GenerateEvent::Done(image) => println!("first codes: {:?}", image.codes[0].at(0, 0)),
    ///         _ => {}
    ///     }
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn generate_images_stream(
        &self,
        prompt: &str,
        n: usize,
        options: &GenerateOptions,
        on_event: &mut dyn FnMut(GenerateEvent) -> ControlFlow<()>,
    ) -> Result<()> {
        let prompt = chat::image_prompt(&self.checkpoint()?.tokenizer, prompt)?;
        self.generate(None, &prompt, n, options, on_event)
    }

    /// Generates a video of a description: [`Self::video_frames`] frames.
    ///
    /// A usage error as for images, and where the model's vocabulary has no videos.
    ///
    /// ```no_run
    /// # use vila_u::{GenerateOptions, Pipeline};
    /// use vila_u::media::video;
    ///
    /// # let pipeline = Pipeline::from_pretrained("nano")?;
    /// let frames = pipeline.generate_video("a red heart moves left on a blue background", &GenerateOptions::default())?;
    /// video::save("heart.mp4".as_ref(), &frames, video::RATE)?;
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn generate_video(&self, prompt: &str, options: &GenerateOptions) -> Result<Vec<RgbImage>> {
        let mut frames = Vec::new();
        self.generate_videos_stream(prompt, 1, options, &mut |event| {
            if let GenerateEvent::Done(video) = event {
                frames.extend(video.frames);
            }
            ControlFlow::Continue(())
        })?;
        Ok(frames)
    }

    /// Generates `n` videos as [`Self::generate_images_stream`] does images.
    ///
    /// ```no_run
    /// # use std::ops::ControlFlow;
    /// # use vila_u::{GenerateEvent, GenerateOptions, Pipeline};
    /// # let pipeline = Pipeline::from_pretrained("nano")?;
    /// let mut videos = Vec::new();
    /// pipeline.generate_videos_stream("a dog grows", 2, &GenerateOptions::default(), &mut |event| {
    ///     if let GenerateEvent::Done(video) = event {
    ///         videos.push(video.frames);
    ///     }
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn generate_videos_stream(
        &self,
        prompt: &str,
        n: usize,
        options: &GenerateOptions,
        on_event: &mut dyn FnMut(GenerateEvent) -> ControlFlow<()>,
    ) -> Result<()> {
        let prompt = chat::video_prompt(&self.checkpoint()?.tokenizer, prompt)?;
        let frames = self.video_frames()?;
        self.generate(Some(frames), &prompt, n, options, on_event)
    }

    /// `frames`: those of each video, nothing for images.
    fn generate(
        &self,
        frames: Option<usize>,
        prompt: &[i64],
        n: usize,
        options: &GenerateOptions,
        on_event: &mut dyn FnMut(GenerateEvent) -> ControlFlow<()>,
    ) -> Result<()> {
        if n == 0 {
            return Err(Error::usage(
                "there is nothing to generate: ask for at least one",
            ));
        }
        let Checkpoint {
            model,
            tokenizer,
            config,
            generation,
            ..
        } = self.checkpoint()?;
        let mut visual = options.resolve(generation, self.seed(options.seed));
        let at_once = MemoryEstimate::of_videos(config, frames.unwrap_or(1)).at_once;
        for first in (0..n).step_by(at_once) {
            let count = at_once.min(n - first);
            visual.first = first;
            let prompts = vec![prompt.to_vec(); count];
            let on_progress = &mut |batch: &Progress| {
                on_event(GenerateEvent::Progress(GenerationProgress {
                    done: first.saturating_mul(batch.total) + count * batch.done,
                    total: n.saturating_mul(batch.total),
                    batch,
                }))
            };
            let output = match frames {
                None => chat::generate_images(model, tokenizer, &prompts, &visual, on_progress),
                Some(frames) => {
                    chat::generate_videos(model, tokenizer, &prompts, frames, &visual, on_progress)
                }
            }?;
            for generated in Generated::read(&output)? {
                if on_event(GenerateEvent::Done(generated)).is_break() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Ok(())
    }
}
