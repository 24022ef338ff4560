//! What a checkpoint holds, from its headers alone: no weight is read.

use std::collections::BTreeMap;

use burn::{module::Module, tensor::Device};
use serde::Serialize;

use super::{
    config, files::Files, keys::Component, parameter::ParameterSpec, weight_dtype::WeightDtype,
    weights,
};
use crate::{
    Result,
    generation::memory::MemoryEstimate,
    parts::ModelPart,
    tower::{RqVaeSiglipConfig, SiglipConfig},
};

/// A checkpoint, checked as loading would check it.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    pub parts: Vec<PartInfo>,
    pub parameters: u64,
    /// Bytes of the weights on disk.
    pub bytes: u64,
    /// Bytes of the weights in memory, by the dtype they are loaded as.
    pub memory: WeightMemory,
    pub visual: Visual,
    /// Absent in a tower alone.
    pub language: Option<Language>,
    /// What generating images needs beside the weights; absent in a tower alone.
    pub images: Option<MemoryEstimate>,
    /// The same of videos.
    pub videos: Option<MemoryEstimate>,
}

impl Info {
    /// Whether some weights are stored in blocks.
    pub fn is_quantized(&self) -> bool {
        let mut dtypes = self.parts.iter().flat_map(|part| part.dtypes.keys());
        dtypes.any(|dtype| {
            [WeightDtype::Q8_0, WeightDtype::Q4_0]
                .iter()
                .any(|f| format!("{f:?}") == *dtype)
        })
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct PartInfo {
    pub name: &'static str,
    pub parameters: u64,
    pub bytes: u64,
    /// Parameters of each stored dtype.
    pub dtypes: BTreeMap<String, u64>,
}

/// On the CPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WeightMemory {
    pub f32: u64,
    pub bf16: u64,
    pub q8_0: u64,
    pub q4_0: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Visual {
    /// Height and width of an image, in pixels.
    pub image_size: usize,
    /// Rows, columns and depth of an image's codes.
    pub codes: [usize; 3],
    /// Codes in a codebook.
    pub codebook: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Language {
    pub layers: usize,
    pub width: usize,
    pub vocabulary: usize,
    /// The longest sequence, in tokens.
    pub context: usize,
    /// Bytes of keys and values that every token of a sequence adds to the memory, as f32.
    pub cache_per_token: u64,
}

/// Reads configurations and headers, of the whole model or of a tower alone.
///
/// # Errors
/// As [`super::load`].
pub fn info(files: &Files) -> Result<Info> {
    let device = Device::flex();
    let mut counter = Counter::default();
    let (visual, language, needs) = if files.contains("config.json") {
        let config = config::read(files)?;
        let model = config.init(&device);
        counter.add(files, Component::Llm, &model.llm)?;
        let projector = Component::projector(&config.mm_projector);
        counter.add(files, projector, &model.mm_projector)?;
        counter.add(files, Component::VisionTower, &model.vision_tower)?;
        let llm = &config.llm;
        let language = Language {
            layers: llm.num_hidden_layers,
            width: llm.hidden_size,
            vocabulary: llm.vocab_size,
            context: llm.max_length(),
            cache_per_token: (8 * llm.num_hidden_layers * llm.kv_heads() * llm.head_dim()) as u64,
        };
        let visual = visual(&config.vision_tower.rqvaesiglip, &config.siglip);
        let videos = MemoryEstimate::of_videos(&config, config.root.num_video_frames);
        (
            visual,
            Some(language),
            Some([MemoryEstimate::of(&config), videos]),
        )
    } else {
        let (tower, siglip) = config::read_tower(files)?;
        counter.add(files, Component::RqVaeSiglip, &tower.init(&siglip, &device))?;
        (visual(&tower, &siglip), None, None)
    };
    let parameters = counter.parts.iter().map(|part| part.parameters).sum();
    Ok(Info {
        parameters,
        bytes: counter.parts.iter().map(|part| part.bytes).sum(),
        memory: counter.memory,
        parts: counter.parts,
        visual,
        language,
        images: needs.map(|[images, _]| images),
        videos: needs.map(|[_, videos]| videos),
    })
}

fn visual(tower: &RqVaeSiglipConfig, siglip: &SiglipConfig) -> Visual {
    Visual {
        image_size: siglip.vision_config.image_size,
        codes: tower.code_shape,
        codebook: tower.n_embed,
    }
}

#[derive(Default)]
struct Counter {
    parts: Vec<PartInfo>,
    memory: WeightMemory,
}

impl Counter {
    fn add<M: Module>(&mut self, files: &Files, component: Component, module: &M) -> Result<()> {
        let opened = weights::ComponentWeights::check(files, component, module)?;
        self.memory.f32 += opened.memory(WeightDtype::F32);
        self.memory.bf16 += opened.memory(WeightDtype::BF16);
        self.memory.q8_0 += opened.memory(WeightDtype::Q8_0);
        self.memory.q4_0 += opened.memory(WeightDtype::Q4_0);
        for part in ModelPart::ALL {
            let mut info = PartInfo {
                name: part.name(),
                parameters: 0,
                bytes: 0,
                dtypes: BTreeMap::new(),
            };
            for (key, parameter) in &opened.parameters {
                let here = counted_in(parameter) == Some(part);
                if let Some(stored) = opened.stored(key).filter(|_| here) {
                    let count = parameter.count() as u64;
                    info.parameters += count;
                    info.bytes += stored.bytes as u64;
                    let dtype = match stored.blocks(parameter) {
                        Some(blocks) => format!("{blocks:?}"),
                        None => stored.dtype.clone(),
                    };
                    *info.dtypes.entry(dtype).or_default() += count;
                }
            }
            if info.parameters > 0 {
                self.parts.push(info);
            }
        }
        Ok(())
    }
}

/// The two numbers of the contrastive logits are counted with the text encoder.
fn counted_in(parameter: &ParameterSpec) -> Option<ModelPart> {
    match parameter.part() {
        Some(ModelPart::ContrastiveLogits) => Some(ModelPart::TextEncoder),
        part => part,
    }
}
