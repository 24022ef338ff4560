//! Parameter paths of our modules <-> tensor names in released checkpoints.
//!
//! Module fields carry the released names, so most paths already are keys. This file holds the
//! whole of the difference: norms (`gamma`, `beta`), the gaps that activations leave in an
//! `nn.Sequential`, tensors stored under a second name, buffers that are no parameters, and that
//! torch has the weights of linear layers transposed.

use crate::projector::ProjectorConfig;

/// What a module of ours is of a checkpoint: which folder holds it, and which of the tensors there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// `llm/`: the language model.
    Llm,
    /// `mm_projector/` of type `mlpNx_gelu` (or `identity`, which has no tensors).
    Projector,
    /// `mm_projector/` of type `linear`: a module with one layer in `layers`.
    LinearProjector,
    /// `vision_tower/`: `rqvaesiglip` and `rqtransformer`.
    VisionTower,
    /// `vision_tower/`, only `rqvaesiglip`: the module holds that component without the prefix.
    RqVaeSiglip,
    /// `vision_tower/`, only `rqtransformer`: the module holds that component without the prefix.
    DepthTransformer,
    /// A folder of its own whose keys are the module's paths: SigLIP as Hugging Face has it, a discriminator.
    Alone,
}

/// The modules whose matrices are tables of rows to look up, which torch and Burn store alike.
const TABLES: [&str; 4] = [
    "embed_tokens",
    "token_embedding",
    "position_embedding",
    "codebooks",
];

impl Component {
    /// The component for a projector of this type.
    pub fn projector(config: &ProjectorConfig) -> Self {
        match config.mm_projector_type.as_str() {
            "linear" => Self::LinearProjector,
            _ => Self::Projector,
        }
    }

    /// The folder of the checkpoint that holds this component.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Llm => "llm",
            Self::Projector | Self::LinearProjector => "mm_projector",
            Self::VisionTower | Self::RqVaeSiglip | Self::DepthTransformer => "vision_tower",
            Self::Alone => "",
        }
    }

    /// The keys of this component start with this; others in the same file belong to another component.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::RqVaeSiglip => "rqvaesiglip.",
            Self::DepthTransformer => "rqtransformer.",
            _ => "",
        }
    }

    /// The path in the whole model of the parameter at `path` in the module of this component.
    pub fn whole_path(self, path: &str) -> String {
        let module = match self {
            Self::Llm => "llm.",
            Self::Projector | Self::LinearProjector => "mm_projector.",
            Self::VisionTower | Self::RqVaeSiglip | Self::DepthTransformer => "vision_tower.",
            Self::Alone => "",
        };
        format!("{module}{}{path}", self.prefix())
    }

    /// The key of the parameter at `path` in the module of this component.
    pub fn key(self, path: &str) -> String {
        let path = match path.rsplit_once('.') {
            Some((norm, "gamma")) => format!("{norm}.weight"),
            Some((norm, "beta")) => format!("{norm}.bias"),
            _ => path.into(),
        };
        let path = format!("{}{path}", self.prefix());
        match self {
            Self::Llm | Self::Alone => path,
            Self::Projector => sequential_gaps(&path, "layers"),
            Self::LinearProjector => path.replacen("layers.0.", "layers.", 1),
            Self::VisionTower | Self::RqVaeSiglip | Self::DepthTransformer => {
                if path.starts_with("rqtransformer.head_transformer.") {
                    return sequential_gaps(&path, "mlp");
                }
                // torch registers these two a second time, one level up, and keeps that name.
                path.replace("rqvaesiglip.siglip_model.logit_", "rqvaesiglip.logit_")
            }
        }
    }

    /// Another name under which files hold the tensor `key`: a torch `.bin` keeps every name of a
    /// shared tensor, safetensors only one.
    pub fn alias(self, key: &str) -> Option<String> {
        let name = key.strip_prefix("rqvaesiglip.logit_")?;
        Some(format!("rqvaesiglip.siglip_model.logit_{name}"))
    }

    /// The tensor that `key` repeats when the module has no such parameter: a shared codebook
    /// appears once for every depth, a text head tied to the embedding table a second time.
    pub fn repeats(self, key: &str) -> Option<String> {
        if key == "lm_head.weight" {
            return Some("model.embed_tokens.weight".into());
        }
        let rest = key.strip_prefix("rqvaesiglip.quantizer.codebooks.")?;
        let (depth, name) = rest.split_once('.')?;
        let depth: usize = depth.parse().ok()?;
        (depth > 0).then(|| format!("rqvaesiglip.quantizer.codebooks.0.{name}"))
    }

    /// Whether the parameter of this path and shape is the weight of a linear layer: torch stores it as
    /// `[outputs, inputs]`, Burn as `[inputs, outputs]`.
    pub fn is_linear(path: &str, shape: &[usize]) -> bool {
        let mut names = path.rsplit('.');
        names.next() == Some("weight")
            && shape.len() == 2
            && !names.any(|name| TABLES.contains(&name))
    }

    /// Buffers that older versions of the authors' libraries stored: derived, not parameters.
    pub fn is_buffer(key: &str) -> bool {
        key.ends_with(".rotary_emb.inv_freq") || key.ends_with(".embeddings.position_ids")
    }
}

/// An activation sits between the layers of an `nn.Sequential` called `name`, so that our n-th layer
/// is its 2n-th.
fn sequential_gaps(path: &str, name: &str) -> String {
    let mut parts: Vec<String> = path.split('.').map(String::from).collect();
    for i in 1..parts.len() {
        if parts[i - 1] == name
            && let Ok(index) = parts[i].parse::<usize>()
        {
            parts[i] = (2 * index).to_string();
        }
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_weights() {
        for (path, shape, linear) in [
            ("layers.0.self_attn.q_proj.weight", &[4, 4][..], true),
            ("weight", &[4, 4], true),
            ("head.attention.in_proj_weight", &[12, 4], false),
            ("decoder.conv_in.weight", &[4, 4, 3, 3], false),
            ("model.norm.gamma", &[4], false),
            ("model.embed_tokens.weight", &[4, 4], false),
            (
                "text_model.embeddings.position_embedding.weight",
                &[4, 4],
                false,
            ),
            ("quantizer.codebooks.0.weight", &[5, 4], false),
        ] {
            assert_eq!(Component::is_linear(path, shape), linear, "{path}");
        }
    }

    #[test]
    fn keys() {
        for (component, path, key) in [
            (
                Component::Llm,
                "model.layers.1.mlp.up_proj.weight",
                "model.layers.1.mlp.up_proj.weight",
            ),
            (Component::Llm, "model.norm.gamma", "model.norm.weight"),
            (Component::Projector, "layers.1.bias", "layers.2.bias"),
            (Component::LinearProjector, "layers.0.bias", "layers.bias"),
            (
                Component::DepthTransformer,
                "head_transformer.blocks.1.mlp.1.weight",
                "rqtransformer.head_transformer.blocks.1.mlp.2.weight",
            ),
            (
                Component::VisionTower,
                "rqvaesiglip.siglip_model.vision_model.encoder.layers.1.mlp.fc1.weight",
                "rqvaesiglip.siglip_model.vision_model.encoder.layers.1.mlp.fc1.weight",
            ),
            (
                Component::RqVaeSiglip,
                "siglip_model.logit_scale",
                "rqvaesiglip.logit_scale",
            ),
        ] {
            assert_eq!(component.key(path), key);
        }
        let depth = Component::DepthTransformer.whole_path("in_mlp_1.weight");
        assert_eq!(depth, "vision_tower.rqtransformer.in_mlp_1.weight");
        assert_eq!(
            Component::VisionTower
                .alias("rqvaesiglip.logit_bias")
                .as_deref(),
            Some("rqvaesiglip.siglip_model.logit_bias")
        );
        assert_eq!(
            Component::VisionTower
                .repeats("rqvaesiglip.quantizer.codebooks.3.weight")
                .as_deref(),
            Some("rqvaesiglip.quantizer.codebooks.0.weight")
        );
        assert_eq!(
            Component::VisionTower.repeats("rqvaesiglip.quantizer.codebooks.0.weight"),
            None
        );
    }
}
