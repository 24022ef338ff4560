//! LoRA: adapters of the decoder's linear layers (Hu et al. 2021, arXiv 2106.09685).
//!
//! ```text
//! y = W x + (alpha / rank) B (A x)        A: rank x inputs, B: outputs x rank
//! ```
//!
//! `W` stays as it is, `A` starts random and `B` at zero, so that an adapted model begins as the one
//! it is made from. The small products are computed one after the other: adding `B A` to `W` first
//! would keep a copy of every weight, and its dense gradient, in the autodiff graph.

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Device, Tensor},
};
use vila_u_kernels::linear;

use super::{DecoderLayer, Llama, linear::Linear};
use crate::layers::dropout;

/// The adapter of one linear layer.
#[derive(Module, Debug)]
pub struct Lora {
    pub a: Param<Tensor<2>>, // [inputs, rank]
    pub b: Param<Tensor<2>>, // [rank, outputs]
    scale: f64,
    /// Share of the adapter's inputs zeroed in training; only on autodiff devices.
    dropout: f64,
}

/// The linear layers of a decoder layer, by the names of their checkpoint keys.
pub const TARGETS: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// Sizes of the adapters, and which layers get one.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    /// Some of [`TARGETS`].
    pub targets: Vec<String>,
}

impl Linear {
    fn adapt(&mut self, config: &LoraConfig, device: &Device) {
        let [inputs, outputs] = self.weight.lazy_shape().dims();
        let rank = config.rank;
        // Kaiming's uniform start with a = sqrt(5): the bound is 1 / sqrt(inputs).
        let bound = 1.0 / (inputs as f64).sqrt();
        let start = Initializer::Uniform {
            min: -bound,
            max: bound,
        };
        self.lora = Some(Lora {
            a: start.init([inputs, rank], device),
            b: Initializer::Zeros.init([rank, outputs], device),
            scale: config.alpha / rank as f64,
            dropout: config.dropout,
        });
    }

    /// Adds the adapter to the weight, which stays what it is otherwise.
    fn merge(&mut self) {
        if let Some(lora) = self.lora.take() {
            let change = lora.a.val().matmul(lora.b.val()) * lora.scale;
            self.weight = self.weight.clone().map(|weight| weight + change);
        }
    }
}

impl Lora {
    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = dropout(x, self.dropout);
        let narrow = linear(x, self.a.val(), None);
        linear(narrow, self.b.val(), None) * self.scale
    }
}

impl Llama {
    /// This model with new adapters.
    pub fn adapted(mut self, config: &LoraConfig, device: &Device) -> Self {
        for layer in &mut self.model.layers {
            for (name, linear) in layer.linears() {
                if config.targets.iter().any(|target| target == name) {
                    linear.adapt(config, device);
                }
            }
        }
        self
    }

    /// The model that the adapters were added to.
    pub fn base(&self) -> Self {
        let mut base = self.clone();
        for layer in &mut base.model.layers {
            for (_, linear) in layer.linears() {
                linear.lora = None;
            }
        }
        base
    }

    /// The model without adapters that computes the same; nothing in it takes a gradient.
    pub fn merged(&self) -> Self {
        let mut merged = self.valid();
        for layer in &mut merged.model.layers {
            for (_, linear) in layer.linears() {
                linear.merge();
            }
        }
        merged
    }
}

impl DecoderLayer {
    fn linears(&mut self) -> [(&'static str, &mut Linear); 7] {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        let linears = [
            &mut attention.q_proj,
            &mut attention.k_proj,
            &mut attention.v_proj,
            &mut attention.o_proj,
            &mut mlp.gate_proj,
            &mut mlp.up_proj,
            &mut mlp.down_proj,
        ];
        let mut names = TARGETS.into_iter();
        linears.map(|linear| (names.next().unwrap_or_default(), linear))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Distribution, Int, TensorData};

    use super::*;
    use crate::{language::LlamaConfig, parameters};

    fn config() -> LlamaConfig {
        let json = r#"{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 20}"#;
        serde_json::from_str(json).unwrap()
    }

    fn lora(dropout: f64) -> LoraConfig {
        LoraConfig {
            rank: 3,
            alpha: 6.0,
            dropout,
            targets: TARGETS.map(String::from).to_vec(),
        }
    }

    /// Initialises every adapter's `b` at random, as if it had been trained.
    struct Trained;

    impl parameters::Mapper for Trained {
        fn map<const D: usize>(&mut self, _: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let small = Distribution::Normal(0.0, 0.2);
            match param.val().dims()[0] {
                3 => param.map(|b| b.random_like(small)),
                _ => param,
            }
        }
    }

    fn logits(llm: &Llama) -> Vec<f32> {
        let device = llm.device();
        let numbers = |first: i64| {
            let numbers: Vec<i64> = (first..first + 6).collect();
            Tensor::<2, Int>::from_data(TensorData::new(numbers, [1, 6]), &device)
        };
        let hidden = llm.forward(llm.embed(numbers(3)), numbers(0), None, None);
        llm.logits(hidden).into_data().iter().collect()
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    }

    #[test]
    fn starts_as_the_model_it_is_made_from_and_merges_into_one() {
        let device = Device::flex();
        let base = config().init(&device);
        let before = logits(&base);
        let adapted = base.adapted(&lora(0.0), &device);
        assert_eq!(logits(&adapted), before);
        let trained = parameters::map(adapted, &mut Trained);
        let after = logits(&trained);
        assert!(largest_difference(&after, &before) > 1e-2);
        assert!(largest_difference(&logits(&trained.merged()), &after) < 1e-4);
    }

    #[test]
    fn only_the_targets_are_adapted() {
        let targets = vec!["v_proj".into()];
        let config_of_lora = LoraConfig {
            targets,
            ..lora(0.0)
        };
        let device = Device::flex();
        let adapted = config().init(&device).adapted(&config_of_lora, &device);
        let paths = parameters::list(&adapted)
            .into_iter()
            .map(|parameter| parameter.path);
        let adapters: Vec<String> = paths.filter(|path| path.contains("lora")).collect();
        assert_eq!(
            adapters,
            [
                "0.self_attn.v_proj.lora.a",
                "0.self_attn.v_proj.lora.b",
                "1.self_attn.v_proj.lora.a",
                "1.self_attn.v_proj.lora.b"
            ]
            .map(|path| format!("model.layers.{path}"))
        );
    }

    #[test]
    fn dropout_is_for_training_only() {
        let device = Device::flex().autodiff();
        let adapted = config().init(&device).adapted(&lora(0.5), &device);
        let llm = parameters::map(adapted, &mut Trained);
        let trained = |seed| {
            device.seed(seed);
            logits(&llm)
        };
        assert_ne!(trained(1), trained(2));
        let valid = llm.valid();
        assert_eq!(logits(&valid), logits(&valid));
    }
}
