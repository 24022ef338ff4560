//! The whole of VILA-U behind one type: load a model, ask it, let it generate, look at its codes.

mod ask;
mod generate;
mod grid;
mod options;
mod vision;

use std::time::{SystemTime, UNIX_EPOCH};

use burn::tensor::Device;

pub use ask::{Answer, AskEvent, Question};
pub use generate::{GenerateEvent, Generated, GenerationProgress};
pub use grid::{Codes, Features, Grid};
pub use options::{AskOptions, GenerateOptions};
pub use vision::{Encoded, Reconstruction, ZeroShotClassifier};

use crate::{
    Error, Result,
    checkpoint::{self, Checkpoint, Source, Tower, WeightDtype},
    data::Record,
    device,
    evaluation::score::{Scored, score},
};

/// A model that is ready to be used. It is loaded once and can then be shared between threads.
///
/// ```
/// # fn main() -> vila_u::Result<()> {
/// use vila_u::{AskOptions, GenerateOptions, Pipeline, Question};
///
/// let pipeline = Pipeline::from_pretrained("nano")?;
/// let images = pipeline.generate_images("a red heart on a blue background", 1, &GenerateOptions::default())?;
/// let question = Question::new("What colour is the background?").image(images[0].clone());
/// println!("{}", pipeline.ask(question, &AskOptions::default())?.text);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pipeline {
    model: Model,
    seed: Option<u64>,
}

/// What is in memory.
#[derive(Debug)]
enum Model {
    Whole(Box<Checkpoint>),
    /// Enough for codes, reconstruction and matching.
    Vision(Box<Tower>),
}

impl Pipeline {
    /// Loads a model as [`Self::builder`] does by default: on a GPU if this build has one, weights in f32.
    ///
    /// - `model`: `nano` (the small model inside this library), a folder in the released Hugging Face layout, or
    ///   `hf:ORG/NAME[@REVISION]`, which is downloaded into the Hugging Face cache if it is not there
    ///
    /// Errors name the file or the field at fault, or say why it cannot be downloaded.
    ///
    /// ```
    /// let pipeline = vila_u::Pipeline::from_pretrained("nano")?;
    /// assert_eq!(pipeline.image_size(), 64);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn from_pretrained(model: impl Into<String>) -> Result<Self> {
        Self::builder(model).build()
    }

    /// Loads a model with options. `model` is what [`Self::from_pretrained`] takes.
    ///
    /// ```
    /// use vila_u::{Pipeline, checkpoint::WeightDtype};
    ///
    /// let pipeline = Pipeline::builder("nano").device("cpu").dtype(WeightDtype::Q8_0).seed(7).build()?;
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn builder(model: impl Into<String>) -> PipelineBuilder {
        PipelineBuilder {
            model: model.into(),
            device: "auto".into(),
            dtype: WeightDtype::F32,
            seed: None,
            vision_only: false,
            on_download: Box::new(|_, _| {}),
        }
    }

    /// Height and width of the images that the model reads, in pixels.
    ///
    /// ```
    /// # let pipeline = vila_u::Pipeline::from_pretrained("nano")?;
    /// assert_eq!(pipeline.image_size(), 64);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn image_size(&self) -> usize {
        self.vision().siglip.vision_config.image_size
    }

    /// Rows and columns of an image's codes, and codes per position: the shape of [`Codes`].
    ///
    /// ```
    /// # let pipeline = vila_u::Pipeline::from_pretrained("nano")?;
    /// assert_eq!(pipeline.code_shape(), [8, 8, 4]);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn code_shape(&self) -> [usize; 3] {
        self.vision().config.code_shape
    }

    /// How many different codes there are.
    ///
    /// ```
    /// # let pipeline = vila_u::Pipeline::from_pretrained("nano")?;
    /// assert_eq!(pipeline.codebook_size(), 512);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn codebook_size(&self) -> usize {
        self.vision().config.n_embed
    }

    /// Frames of a video that the model reads or generates; a usage error where the vision tower was loaded
    /// alone.
    ///
    /// ```
    /// # let pipeline = vila_u::Pipeline::from_pretrained("nano")?;
    /// assert_eq!(pipeline.video_frames()?, 8);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn video_frames(&self) -> Result<usize> {
        Ok(self.checkpoint()?.config.root.num_video_frames)
    }

    /// Where the model is computed.
    ///
    /// ```
    /// # use vila_u::{Pipeline, device};
    /// let pipeline = Pipeline::builder("nano").device("cpu").build()?;
    /// assert!(device::is_cpu(&pipeline.device()));
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn device(&self) -> Device {
        self.vision().device()
    }

    /// The model itself with its configuration and tokenizer, for what this type has no method for; a usage
    /// error where the vision tower was loaded alone.
    ///
    /// ```
    /// # let pipeline = vila_u::Pipeline::from_pretrained("nano")?;
    /// assert_eq!(pipeline.checkpoint()?.tokenizer.encode("a heart").len(), 3);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn checkpoint(&self) -> Result<&Checkpoint> {
        match &self.model {
            Model::Whole(checkpoint) => Ok(checkpoint),
            Model::Vision(_) => Err(vision_only()),
        }
    }

    /// The same, to be kept or changed; a [`Checkpoint`] becomes a pipeline again with `Pipeline::from`.
    ///
    /// ```
    /// # use vila_u::Pipeline;
    /// let mut checkpoint = Pipeline::from_pretrained("nano")?.into_checkpoint()?;
    /// checkpoint.generation.visual_guidance = 2.0;
    /// let pipeline = Pipeline::from(checkpoint);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn into_checkpoint(self) -> Result<Checkpoint> {
        match self.model {
            Model::Whole(checkpoint) => Ok(*checkpoint),
            Model::Vision(_) => Err(vision_only()),
        }
    }

    /// How well the model predicts a record of training data: its teacher-forced losses. A low loss on a caption
    /// says that the model finds it likely, given the image.
    ///
    /// Errors when an image of the record cannot be read, or the conversation names other images than it has.
    ///
    /// ```
    /// use vila_u::{data::{Pictures, Record, Text}, text::conversation::Turn};
    ///
    /// # let pipeline = vila_u::Pipeline::from_pretrained("nano")?;
    /// let record = Record {
    ///     id: "riddle".into(),
    ///     text: Text::Turns(vec![Turn::human("What has four legs?"), Turn::assistant("a dog")]),
    ///     pictures: Pictures::Images(Vec::new()),
    /// };
    /// assert!(pipeline.score(&record)?.score.text_loss.is_some());
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn score(&self, record: &Record) -> Result<Scored> {
        let Checkpoint {
            model,
            config,
            tokenizer,
            ..
        } = self.checkpoint()?;
        score(model, config, tokenizer, record)
    }

    /// The seed of a call: its own, the pipeline's, or a new one.
    pub(crate) fn seed(&self, own: Option<u64>) -> u64 {
        own.or(self.seed).unwrap_or_else(random_seed)
    }
}

fn vision_only() -> Error {
    Error::usage(
        "the vision tower was loaded alone, and this needs the whole model: leave `vision_only` out",
    )
}

/// A seed from the clock, for those who give none and want to know it.
///
/// ```
/// let mut options = vila_u::GenerateOptions::default();
/// options.seed = Some(vila_u::random_seed());
/// ```
pub fn random_seed() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_micros() as u64 % 1_000_000_007)
}

/// How a model is loaded; see [`Pipeline::builder`].
///
/// ```no_run
/// use vila_u::{Pipeline, checkpoint::WeightDtype};
///
/// let pipeline = Pipeline::builder("hf:mit-han-lab/vila-u-7b-256")
///     .device("cuda:1")
///     .dtype(WeightDtype::BF16)
///     .seed(7)
///     .on_download(|done, total| println!("{done} of {total} bytes"))
///     .build()?;
/// # Ok::<(), vila_u::Error>(())
/// ```
pub struct PipelineBuilder {
    model: String,
    device: String,
    dtype: WeightDtype,
    seed: Option<u64>,
    vision_only: bool,
    on_download: Box<dyn Fn(u64, u64) + Send + Sync>,
}

impl PipelineBuilder {
    /// Where to compute: `cpu`, a GPU that this build has (`vulkan`, `metal`, `cuda`, `rocm`; of several `cuda:1`
    /// is the second), or `auto` \[auto\].
    #[must_use]
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = name.into();
        self
    }

    /// The number format of the weights in memory \[f32\].
    #[must_use]
    pub fn dtype(mut self, dtype: WeightDtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// The seed of every call that has none of its own, so that it always gives the same \[a new one each time\].
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Loads the vision tower alone, a fraction of the memory: enough to encode, decode, reconstruct, classify and
    /// embed, but not to ask or generate.
    ///
    /// ```
    /// # use vila_u::{AskOptions, Pipeline};
    /// let pipeline = Pipeline::builder("nano").vision_only().build()?;
    /// assert!(pipeline.embed_text("a red heart").is_ok());
    /// assert!(pipeline.ask("Why?", &AskOptions::default()).is_err());
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    #[must_use]
    pub fn vision_only(mut self) -> Self {
        self.vision_only = true;
        self
    }

    /// Is told the bytes downloaded, and those in all.
    #[must_use]
    pub fn on_download(mut self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.on_download = Box::new(progress);
        self
    }

    /// Loads the model.
    ///
    /// Errors name the file or the field at fault, a device that is not there, a number format that the device
    /// does not take, or say why the model cannot be downloaded.
    pub fn build(self) -> Result<Pipeline> {
        let device = device::select(&self.device)?;
        self.dtype.check(&device)?;
        let files = Source::parse(&self.model)?.files(self.on_download)?;
        let model = if self.vision_only {
            Model::Vision(Box::new(checkpoint::load_tower(
                &files, &device, self.dtype,
            )?))
        } else {
            Model::Whole(Box::new(checkpoint::load(&files, &device, self.dtype)?))
        };
        Ok(Pipeline {
            model,
            seed: self.seed,
        })
    }
}

/// A model that is loaded already; its weights are shared with nobody.
impl From<Checkpoint> for Pipeline {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            model: Model::Whole(Box::new(checkpoint)),
            seed: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
