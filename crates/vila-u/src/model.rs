//! VILA-U: the vision tower, the projector and the language model put together.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    language::{Llama, LlamaConfig},
    media::preprocess::ResizeMode,
    projector::{Projector, ProjectorConfig},
    sequence::templates::VIDEO_FRAMES,
    tower::{SiglipConfig, VisionTower, VisionTowerConfig},
};

/// No model reads a video of more frames.
const MOST_FRAMES: usize = 4096;

/// The sizes of every part.
#[derive(Debug, Clone, PartialEq)]
pub struct VilaUConfig {
    /// `config.json`
    pub root: RootConfig,
    /// `llm/config.json`
    pub llm: LlamaConfig,
    /// `mm_projector/config.json`
    pub mm_projector: ProjectorConfig,
    /// `vision_tower/config.json`
    pub vision_tower: VisionTowerConfig,
    /// What `vision_tower.rqvaesiglip.pretrained_model` names.
    pub siglip: SiglipConfig,
}

/// The fields of the root `config.json` that are not copies of the parts' configs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootConfig {
    /// Width of the language model.
    pub hidden_size: usize,
    /// Width of the visual features.
    pub mm_hidden_size: usize,
    /// The vocabulary has `<im_start>` and `<im_end>`.
    #[serde(default = "yes")]
    pub mm_use_im_start_end: bool,
    /// The vocabulary has `<vi_start>` and `<vi_end>`.
    #[serde(default = "yes")]
    pub mm_use_vi_start_end: bool,
    #[serde(default)]
    pub mm_use_im_patch_token: bool,
    /// How an image to understand becomes square: `pad`, anything else stretches it.
    #[serde(default = "resize")]
    pub image_aspect_ratio: String,
    /// Frames of a video, to understand or to make.
    #[serde(default = "eight")]
    pub num_video_frames: usize,
}

impl RootConfig {
    /// How the model was trained to see images to understand, and frames of videos.
    pub fn training_resize(&self) -> ResizeMode {
        if self.image_aspect_ratio == "pad" {
            ResizeMode::Pad
        } else {
            ResizeMode::Stretch
        }
    }

    /// How the released model is asked about images: stretched as they are stored, unlike in training. Frames of
    /// videos are seen as in training.
    pub fn inference_resize(&self) -> ResizeMode {
        match self.training_resize() {
            ResizeMode::Stretch => ResizeMode::StretchNative,
            mode => mode,
        }
    }

    /// As the released models have it, for a language model and visual features of these widths.
    pub fn new(language: usize, visual: usize) -> Self {
        Self {
            hidden_size: language,
            mm_hidden_size: visual,
            mm_use_im_start_end: true,
            mm_use_vi_start_end: true,
            mm_use_im_patch_token: false,
            image_aspect_ratio: resize(),
            num_video_frames: eight(),
        }
    }
}

fn yes() -> bool {
    true
}
fn resize() -> String {
    "resize".into()
}
fn eight() -> usize {
    VIDEO_FRAMES
}

/// The whole model. Module fields carry the names of the checkpoint's folders.
#[derive(Module, Debug)]
pub struct VilaU {
    pub llm: Llama,
    pub mm_projector: Projector,
    pub vision_tower: VisionTower,
    grid: [usize; 2],
}

impl VilaUConfig {
    /// A usage error that says why no model can have this config, if there is a reason.
    pub fn check(&self) -> Result<()> {
        let (tower, depth) = (
            &self.vision_tower.rqvaesiglip,
            &self.vision_tower.rqtransformer,
        );
        self.llm.check()?;
        self.vision_tower.check(&self.siglip)?;
        self.mm_projector
            .check(tower.embed_dim, self.llm.hidden_size)?;
        if !(1..=MOST_FRAMES).contains(&self.root.num_video_frames) {
            return Err(Error::usage(format!(
                "num_video_frames is {}: it is 1 to {MOST_FRAMES}",
                self.root.num_video_frames
            )));
        }
        if depth.input_embed_dim_2 != self.llm.hidden_size {
            return Err(Error::usage(format!(
                "rqtransformer.input_embed_dim_2 is {}, but the language model's hidden_size is {}",
                depth.input_embed_dim_2, self.llm.hidden_size
            )));
        }
        if tower.latent_shape[..2] != tower.code_shape[..2] {
            return Err(Error::usage(format!(
                "a language model needs one visual token for each feature, but latent_shape is {:?} and code_shape {:?}",
                tower.latent_shape, tower.code_shape
            )));
        }
        if self.root.hidden_size != self.llm.hidden_size
            || self.root.mm_hidden_size != tower.embed_dim
        {
            return Err(Error::usage(format!(
                "hidden_size {} and mm_hidden_size {} are not the language model's {} and the tower's {}",
                self.root.hidden_size,
                self.root.mm_hidden_size,
                self.llm.hidden_size,
                tower.embed_dim
            )));
        }
        Ok(())
    }

    /// An untrained model of a config that was checked; weights are initialised when first used.
    pub(crate) fn init(&self, device: &Device) -> VilaU {
        let [rows, columns, _] = self.vision_tower.rqtransformer.block_size;
        let visual = self.vision_tower.rqvaesiglip.embed_dim;
        VilaU {
            llm: self.llm.init(device),
            mm_projector: self.mm_projector.init(visual, self.llm.hidden_size, device),
            vision_tower: self.vision_tower.init(&self.siglip, device),
            grid: [rows, columns],
        }
    }
}

impl VilaU {
    /// An untrained model; weights are initialised when first used.
    ///
    /// A usage error when [`VilaUConfig::check`] fails.
    ///
    /// ```
    /// use vila_u::{Pipeline, device, model::VilaU};
    ///
    /// let nano = Pipeline::from_pretrained("nano")?;
    /// let mut config = nano.checkpoint()?.config.clone();
    /// config.llm.num_hidden_layers = 2;
    /// let model = VilaU::new(&config, &device::select("cpu")?)?;
    /// assert_eq!(model.image_tokens(), 64);
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn new(config: &VilaUConfig, device: &Device) -> Result<Self> {
        config.check()?;
        Ok(config.init(device))
    }

    /// Rows and columns of the visual tokens of an image.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// What the language model reads for images `[images, 3, size, size]` in -1..1: `[images * tokens, hidden]`.
    ///
    /// Images are encoded one at a time: attention within an image is the largest need of memory.
    pub fn visual_embeds(&self, pixels: Tensor<4>) -> Tensor<2> {
        let tower = &self.vision_tower.rqvaesiglip;
        let features = pixels.split(1, 0).into_iter();
        let features = features.map(|image| tower.encode(image).z_q.flatten::<2>(0, 2));
        self.mm_projector
            .forward(Tensor::cat(features.collect(), 0))
    }

    /// Visual tokens of an image.
    pub fn image_tokens(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// The pixels `[images, 3, H, W]`, about -1..1 but not bounded, of images whose visual features
    /// are `[images, image_tokens, C]`.
    pub fn pixels(&self, features: Tensor<3>) -> Tensor<4> {
        let [images, _, channels] = features.dims();
        let [rows, columns] = self.grid;
        let features = features.reshape([images, rows, columns, channels]);
        self.vision_tower.rqvaesiglip.decode(features)
    }
}
