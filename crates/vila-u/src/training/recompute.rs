//! Activations computed again instead of kept (activation checkpointing; Chen et al. 2016,
//! arXiv 1604.06174), by layer of the language model.
//!
//! Forward, nothing is recorded and each layer's input alone is kept. Backward, from the last layer to
//! the first, a layer runs once more, recorded, and the gradient that arrived at its output goes through
//! it. So at any time the tape holds one layer, for a third more work:
//!
//! ```text
//! y_i = layer_i(x_i)        dx_i, dW_i = gradients of sum(y_i * dy_i)        dy_{i-1} = dx_i
//! ```

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Gradients as Tape, Int, Tensor};

use super::adamw::Gradients;
use crate::data::seed::mix;
use crate::language::{DecoderLayer, Llama, Rotation};

/// The layers of a language model, run without being recorded.
pub struct Recomputed {
    layers: Vec<DecoderLayer>,
    /// What goes into each layer, `[rows, length, hidden]`, off the tape.
    inputs: Vec<Tensor<3>>,
    rotation: Rotation,
    mask: Tensor<4, Bool>,
    /// What goes into the first layer, on the tape of what made it.
    embeds: Tensor<3>,
    /// What comes out of the last layer, where the tape of the losses begins.
    top: Tensor<3>,
    chance: Option<Chance>,
}

/// A layer that draws from the device has to draw the same again.
struct Chance {
    device: Device,
    seed: u64,
}

impl Chance {
    fn draw(&self, layer: usize) {
        self.device.seed(mix(self.seed, layer as u64));
    }
}

impl Recomputed {
    /// Runs the layers on `embeds`; arguments are those of [`Llama::forward`]. `seed`: of what the
    /// layers draw from the device, if they do.
    pub fn forward(
        llm: &Llama,
        embeds: Tensor<3>,
        positions: Tensor<2, Int>,
        mask: Tensor<4, Bool>,
        seed: Option<u64>,
    ) -> Self {
        let rotation = llm.rotation(positions);
        let layers = llm.model.layers.clone();
        let chance = seed.map(|seed| Chance {
            device: embeds.device(),
            seed,
        });
        let mut x = embeds.clone().inner().autodiff();
        // Where nothing up to here is trained, there is nothing to go back for.
        let learns = embeds.is_tracked() || layers.iter().any(trains);
        let mut inputs = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            inputs.push(x.clone());
            if let Some(chance) = &chance {
                chance.draw(index);
            }
            let layer = layer.clone().no_grad();
            x = layer.forward(x, &rotation, Some(mask.clone()), None);
        }
        Self {
            layers,
            inputs,
            rotation,
            mask,
            embeds,
            top: if learns { x.require_grad() } else { x },
            chance,
        }
    }

    /// What comes out of the last layer; what is made of it is recorded.
    pub fn top(&self) -> Tensor<3> {
        self.top.clone()
    }

    /// Goes back through the layers from the tape of the losses, which keeps the rest of itself.
    /// Returns the layers' gradients, and the tape of what made the embeddings.
    pub fn backward(self, tape: &mut Tape) -> (Gradients, Option<Tape>) {
        let mut found = Gradients::default();
        let Some(mut slope) = self.top.grad_remove(tape) else {
            return (found, None);
        };
        drop(self.top);
        let layers = self.layers.into_iter().zip(self.inputs).enumerate();
        for (index, (layer, input)) in layers.rev() {
            if let Some(chance) = &self.chance {
                chance.draw(index);
            }
            let input = input.require_grad();
            let mask = Some(self.mask.clone());
            let y = layer.forward(input.clone(), &self.rotation, mask, None);
            let mut tape = arrive(y, slope);
            let Some(next) = input.grad_remove(&mut tape) else {
                return (found, None);
            };
            slope = next;
            found.add(Gradients::of(&layer, tape));
        }
        let below = self.embeds.is_tracked();
        let below = below.then(|| arrive(self.embeds, slope));
        (found, below)
    }
}

/// Whether any parameter is trained.
fn trains<M: Module>(module: &M) -> bool {
    struct Any(bool);
    impl ModuleVisitor for Any {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut any = Any(false);
    module.visit(&mut any);
    any.0
}

/// The tape of a gradient that arrives at `y`.
fn arrive(y: Tensor<3>, slope: Tensor<3>) -> Tape {
    (y * slope.autodiff()).sum().backward()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::module::ModuleMapper;
    use burn::tensor::{Distribution, TensorData};

    use super::*;
    use crate::language::lora::{LoraConfig, TARGETS};
    use crate::language::{LlamaConfig, causal_mask};

    const LENGTH: usize = 5;

    fn llm(tied: bool, device: &Device) -> Llama {
        let json = format!(
            r#"{{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 20, "tie_word_embeddings": {tied}}}"#
        );
        let config: LlamaConfig = serde_json::from_str(&json).unwrap();
        config.init(device)
    }

    /// With adapters that are not zero, beside layers that are not trained.
    fn adapted(llm: Llama, device: &Device) -> Llama {
        struct Train(Vec<String>);
        impl ModuleMapper for Train {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.0.push(name.into());
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.0.pop();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                if !self.0.contains(&"lora".into()) {
                    return param.set_require_grad(false);
                }
                let normal = Distribution::Normal(0.0, 0.2);
                param.map(|value| value.inner().random_like(normal).autodiff().require_grad())
            }
        }
        let config = LoraConfig {
            rank: 2,
            alpha: 4.0,
            dropout: 0.5,
            targets: TARGETS.map(String::from).to_vec(),
        };
        llm.adapted(&config, device).map(&mut Train(Vec::new()))
    }

    fn numbers(first: i64, device: &Device) -> Tensor<2, Int> {
        let numbers: Vec<i64> = (first..first + 2 * LENGTH as i64).collect();
        Tensor::from_data(TensorData::new(numbers, [2, LENGTH]), device)
    }

    /// A loss, and the gradient of every parameter in order.
    type Found = (f32, Vec<Option<Vec<f32>>>);

    fn found(llm: &Llama, loss: Tensor<1>, recomputed: Option<Recomputed>) -> Found {
        struct InOrder<'a>(&'a Gradients, Vec<Option<Vec<f32>>>);
        impl ModuleVisitor for InOrder<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.1.push(self.0.get(param.id).map(<[f32]>::to_vec));
            }
        }
        let mut tape = loss.backward();
        let mut gradients = Gradients::default();
        if let Some(layers) = recomputed {
            let (found, below) = layers.backward(&mut tape);
            gradients.add(found);
            if let Some(below) = below {
                gradients.add(Gradients::of(llm, below));
            }
        }
        gradients.add(Gradients::of(llm, tape));
        let mut all = InOrder(&gradients, Vec::new());
        llm.visit(&mut all);
        (loss.into_scalar(), all.1)
    }

    fn loss(llm: &Llama, hidden: Tensor<3>) -> Tensor<1> {
        llm.logits(hidden).square().mean()
    }

    fn again(llm: &Llama, device: &Device, seed: Option<u64>) -> Found {
        let embeds = llm.embed(numbers(3, device));
        let mask = causal_mask(LENGTH, LENGTH, device);
        let layers = Recomputed::forward(llm, embeds, numbers(0, device), mask, seed);
        let loss = loss(llm, llm.normalised(layers.top()));
        found(llm, loss, Some(layers))
    }

    #[test]
    fn gradients_are_those_of_what_is_kept() {
        let device = Device::flex().autodiff();
        for tied in [false, true] {
            let llm = llm(tied, &device);
            let embeds = llm.embed(numbers(3, &device));
            let mask = causal_mask(LENGTH, LENGTH, &device);
            let hidden = llm.forward(embeds, numbers(0, &device), Some(mask), None);
            let kept = found(&llm, loss(&llm, hidden), None);
            assert!(kept.1.iter().all(Option::is_some));
            assert_eq!(again(&llm, &device, None), kept, "tied: {tied}");
        }
    }

    /// What is drawn going back is what was drawn going forward: otherwise the gradients would be
    /// those of another loss.
    #[test]
    fn chance_is_the_same_both_times() {
        let device = Device::flex().autodiff();
        let llm = adapted(llm(false, &device), &device);
        let seed = 7;
        // Everything recorded, each layer with the chance that it has there.
        let kept = || {
            let rotation = llm.rotation(numbers(0, &device));
            let chance = Chance {
                device: device.clone(),
                seed,
            };
            let mut x = llm.embed(numbers(3, &device));
            for (index, layer) in llm.model.layers.iter().enumerate() {
                chance.draw(index);
                let mask = causal_mask(LENGTH, LENGTH, &device);
                x = layer.forward(x, &rotation, Some(mask), None);
            }
            found(&llm, loss(&llm, llm.normalised(x)), None)
        };
        assert!(kept().1.iter().flatten().count() == 3 * 7 * 2);
        assert_ne!(again(&llm, &device, Some(seed + 1)).0, kept().0);
        // The device's generator is that of all tests at once, and another may draw in between: not
        // every time.
        let mut attempts = (0..50).map(|_| again(&llm, &device, Some(seed)) == kept());
        assert!(attempts.any(|same| same));
    }
}
