//! What a checkpoint holds, from its headers alone: no weight is read.

use std::collections::BTreeMap;

use burn::{module::Module, tensor::Device};
use serde::Serialize;

use super::{config, files::Files, format::Format, keys::Part, weights};
use crate::{
    Result,
    generation::memory::MemoryEstimate,
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
    pub memory: Memory,
    pub visual: Visual,
    /// Absent in a tower alone.
    pub language: Option<Language>,
    /// What drawing needs beside the weights; absent in a tower alone.
    pub drawing: Option<MemoryEstimate>,
    /// The same of videos.
    pub videos: Option<MemoryEstimate>,
}

impl Info {
    /// Whether some weights are stored in blocks.
    pub fn is_quantized(&self) -> bool {
        let mut dtypes = self.parts.iter().flat_map(|part| part.dtypes.keys());
        dtypes.any(|dtype| {
            [Format::Q8_0, Format::Q4_0]
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
pub struct Memory {
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

/// Name and keys of the parts that are told apart.
const PARTS: [(&str, &str, &[&str]); 7] = [
    ("language model", "llm", &[""]),
    ("projector", "mm_projector", &[""]),
    ("depth transformer", "vision_tower", &["rqtransformer."]),
    (
        "vision encoder",
        "vision_tower",
        &["rqvaesiglip.siglip_model.vision_model."],
    ),
    (
        "text encoder",
        "vision_tower",
        &["rqvaesiglip.siglip_model.text_model.", "rqvaesiglip.logit_"],
    ),
    ("quantizer", "vision_tower", &["rqvaesiglip.quantizer."]),
    (
        "pixel decoder",
        "vision_tower",
        &["rqvaesiglip.post_quant_conv.", "rqvaesiglip.decoder."],
    ),
];

/// Reads configurations and headers, of the whole model or of a tower alone.
///
/// # Errors
/// As [`super::load`].
pub fn info(files: &Files) -> Result<Info> {
    let device = Device::flex();
    let mut counter = Counter::default();
    let (visual, language, drawing) = if files.contains("config.json") {
        let config = config::read(files)?;
        let model = config.init(&device);
        counter.add(files, Part::Llm, &model.llm)?;
        let projector = Part::projector(&config.mm_projector);
        counter.add(files, projector, &model.mm_projector)?;
        counter.add(files, Part::VisionTower, &model.vision_tower)?;
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
        counter.add(files, Part::RqVaeSiglip, &tower.init(&siglip, &device))?;
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
        drawing: drawing.map(|[images, _]| images),
        videos: drawing.map(|[_, videos]| videos),
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
    memory: Memory,
}

impl Counter {
    fn add<M: Module>(&mut self, files: &Files, part: Part, module: &M) -> Result<()> {
        let opened = weights::Opened::check(files, part, module)?;
        self.memory.f32 += opened.memory(Format::F32);
        self.memory.bf16 += opened.memory(Format::BF16);
        self.memory.q8_0 += opened.memory(Format::Q8_0);
        self.memory.q4_0 += opened.memory(Format::Q4_0);
        for (name, folder, prefixes) in PARTS {
            let mut info = PartInfo {
                name,
                parameters: 0,
                bytes: 0,
                dtypes: BTreeMap::new(),
            };
            for (key, parameter) in &opened.parameters {
                let here = prefixes.iter().any(|prefix| key.starts_with(prefix));
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
            if folder == part.folder() && info.parameters > 0 {
                self.parts.push(info);
            }
        }
        Ok(())
    }
}
