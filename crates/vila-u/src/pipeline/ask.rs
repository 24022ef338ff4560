//! Questions about images, videos or nothing, answered in words, images and videos.

use std::{ops::ControlFlow, path::Path};

use burn::tensor::Tensor;

use super::{AskOptions, Generated, GenerationProgress, Pipeline};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    generation::{
        chat::{self, AnswerEvent, AnswerOptions, VisualInputs},
        text::TextOptions,
    },
    media::{
        Picture, to_tensor,
        video::{self, FrameSampling},
    },
};

/// A question with the images and videos that it is about.
///
/// Each `<image>` in the text stands for the next image and each `<video>` for the next video; those of a kind
/// that the text does not place come first.
///
/// ```
/// use vila_u::{Question, image::RgbImage};
///
/// let (one, other) = (RgbImage::new(64, 64), RgbImage::new(64, 64));
/// let question = Question::new("Is <image> the same as <image>?").image(one).image(other);
/// ```
#[derive(Clone, Debug)]
pub struct Question {
    text: String,
    images: Vec<Picture>,
    videos: Vec<Vec<Picture>>,
}

impl Question {
    /// A question about nothing but its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            images: Vec::new(),
            videos: Vec::new(),
        }
    }

    /// Adds an image, of the `image` crate or from [`crate::media::load`].
    #[must_use]
    pub fn image(mut self, image: impl Into<Picture>) -> Self {
        self.images.push(image.into());
        self
    }

    /// Adds a video. The model sees [`Pipeline::video_frames`] of its frames, evenly from the first to the last.
    #[must_use]
    pub fn video<P: Into<Picture>>(mut self, frames: impl IntoIterator<Item = P>) -> Self {
        self.videos
            .push(frames.into_iter().map(Into::into).collect());
        self
    }
}

impl From<&str> for Question {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Question {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// An answer and what it took.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Without special tokens and surrounding space; `<image>` and `<video>` where one was generated.
    pub text: String,
    /// The images and videos in the answer, in their order.
    pub generated: Vec<Generated>,
    /// The token ids, the one that ended the answer included; [`crate::text::IMAGE_ID`] for every image or frame.
    pub tokens: Vec<i64>,
    /// Positions of the prompt, those of images included.
    pub prompt_tokens: usize,
}

/// A part of an answer, as soon as it is known.
#[non_exhaustive]
pub enum AskEvent<'a> {
    /// The next piece of text; the first begins with a space where the template has one.
    Text(&'a str),
    /// An image or a video is being generated.
    Progress(GenerationProgress<'a>),
    /// An image or a video of the answer.
    Generated(&'a Generated),
}

impl Pipeline {
    /// Answers a question about images and videos, or about none.
    ///
    /// A usage error when the text places another number of images or videos than the question has, for an empty
    /// image or video, for options that are out of range, and when it is longer than the model's context.
    ///
    /// ```
    /// # use vila_u::{AskOptions, Pipeline, Question, image::RgbImage};
    /// # let pipeline = Pipeline::from_pretrained("nano")?;
    /// let question = Question::new("What is in this picture?").image(RgbImage::new(64, 64));
    /// let answer = pipeline.ask(question, &AskOptions::default())?;
    /// println!("{} ({} tokens)", answer.text, answer.tokens.len());
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn ask(&self, question: impl Into<Question>, options: &AskOptions) -> Result<Answer> {
        self.ask_stream(question, options, &mut |_| ControlFlow::Continue(()))
    }

    /// The same, told of every part of the answer as soon as it is known.
    ///
    /// [`ControlFlow::Break`] ends the answer there; within an image or a video with [`Error::Interrupted`].
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use vila_u::{AskEvent, AskOptions, Pipeline};
    /// # let pipeline = Pipeline::from_pretrained("nano")?;
    /// pipeline.ask_stream("What has four legs?", &AskOptions::default(), &mut |event| {
    ///     if let AskEvent::Text(text) = event {
    ///         print!("{text}");
    ///     }
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn ask_stream(
        &self,
        question: impl Into<Question>,
        options: &AskOptions,
        on_event: &mut dyn FnMut(AskEvent) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let question = question.into();
        if options.max_tokens == 0 {
            return Err(Error::usage("an answer has at least one token"));
        }
        let Checkpoint {
            model,
            tokenizer,
            generation,
            ..
        } = self.checkpoint()?;
        let seed = self.seed(options.seed);
        let settings = AnswerOptions {
            text: TextOptions {
                sampling: options.text(generation),
                seed,
                max_tokens: options.max_tokens,
                stop: vec![tokenizer.eos_token_id()],
            },
            visual: options.visual(generation, seed),
            frames: self.video_frames()?,
            system: options.system_prompt,
        };
        let inputs = self.inputs(&question)?;
        let mut generated = Vec::new();
        let mut failure = None;
        let answer = chat::answer(
            model,
            tokenizer,
            &question.text,
            inputs,
            &settings,
            &mut |event| match event {
                AnswerEvent::Text(text) => on_event(AskEvent::Text(text)),
                AnswerEvent::VisualProgress(batch) => {
                    on_event(AskEvent::Progress(GenerationProgress {
                        done: batch.done,
                        total: batch.total,
                        batch,
                    }))
                }
                AnswerEvent::Visual(output) => match Generated::read(output) {
                    Ok(one) => {
                        let before = generated.len();
                        generated.extend(one);
                        let mut new = generated[before..].iter();
                        new.try_for_each(|one| on_event(AskEvent::Generated(one)))
                    }
                    Err(error) => {
                        failure = Some(error);
                        ControlFlow::Break(())
                    }
                },
            },
        );
        if let Some(error) = failure {
            return Err(error);
        }
        let answer = answer?;
        Ok(Answer {
            text: answer.text,
            generated,
            tokens: answer.tokens,
            prompt_tokens: answer.prompt_tokens,
        })
    }

    /// As many frames of a video file, or of a folder of frames, as the model sees.
    ///
    /// Errors when it cannot be read, or needs an `ffmpeg` that is not installed.
    ///
    /// ```no_run
    /// # use vila_u::{AskOptions, Pipeline, Question};
    /// # let pipeline = Pipeline::from_pretrained("nano")?;
    /// let question = Question::new("What moves?").video(pipeline.load_video("clip.mp4")?);
    /// println!("{}", pipeline.ask(question, &AskOptions::default())?.text);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn load_video(&self, path: impl AsRef<Path>) -> Result<Vec<Picture>> {
        let frames = self.video_frames()?;
        video::frames(path.as_ref(), frames, FrameSampling::Inference)
    }

    /// What the vision tower reads of the images and videos of a question.
    fn inputs(&self, question: &Question) -> Result<VisualInputs> {
        let images = question.images.iter();
        let video = |frames: &Vec<Picture>| {
            let seen = self.frames_seen(frames)?.into_iter();
            let frames: Result<Vec<_>> = seen.map(|frame| self.frame_pixels(frame)).collect();
            Ok(Tensor::cat(frames?, 0))
        };
        Ok(VisualInputs {
            images: images
                .map(|image| self.image_pixels(image))
                .collect::<Result<_>>()?,
            videos: question.videos.iter().map(video).collect::<Result<_>>()?,
        })
    }

    /// An image to understand, `[1, 3, size, size]` in -1..1.
    pub(crate) fn image_pixels(&self, image: &Picture) -> Result<Tensor<4>> {
        let resize = self.checkpoint()?.config.root.inference_resize();
        to_tensor(image, self.image_size(), resize, &self.device())
    }

    /// A frame of a video to understand, `[1, 3, size, size]` in -1..1.
    pub(crate) fn frame_pixels(&self, frame: &Picture) -> Result<Tensor<4>> {
        let resize = self.checkpoint()?.config.root.training_resize();
        to_tensor(frame, self.image_size(), resize, &self.device())
    }

    /// The frames of a video that the model sees, evenly from the first to the last.
    pub(crate) fn frames_seen<'v>(&self, frames: &'v [Picture]) -> Result<Vec<&'v Picture>> {
        if frames.is_empty() {
            return Err(Error::usage("a video has at least one frame"));
        }
        let seen = FrameSampling::Inference.choose(frames.len(), self.video_frames()?);
        Ok(seen
            .into_iter()
            .flatten()
            .map(|index| &frames[index])
            .collect())
    }
}
