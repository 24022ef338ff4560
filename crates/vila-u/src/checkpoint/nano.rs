//! The model compiled into the program: the files of `models/nano`.

use super::files::{Bytes, Files};

/// Path inside the checkpoint, contents.
macro_rules! embed {
    ($($path:literal),* $(,)?) => {
        &[$((
            $path,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/nano/", $path)),
        )),*]
    };
}

const FILES: &[(&str, &[u8])] = embed![
    "config.json",
    "llm/added_tokens.json",
    "llm/config.json",
    "llm/generation_config.json",
    "llm/model.safetensors",
    "llm/special_tokens_map.json",
    "llm/tokenizer.model",
    "llm/tokenizer_config.json",
    "mm_projector/config.json",
    "mm_projector/model.safetensors",
    "siglip/config.json",
    "siglip/spiece.model",
    "vision_tower/config.json",
    "vision_tower/model.safetensors",
    "vision_tower/preprocessor_config.json",
];

/// The embedded checkpoint.
pub(super) fn files() -> Files {
    let files = FILES
        .iter()
        .map(|(path, contents)| (path.to_string(), Bytes::Static(contents)));
    Files::memory("nano", files)
}
