//! Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) by layer of the language model: activations are
//! computed again instead of kept.
//!
//! Forward, without autodiff, each layer's input alone is kept. Backward, from the last layer to the first, a
//! layer runs once more, with autodiff, and the gradient of its output is backpropagated through it. So at any
//! time there are the activations of one layer, for a third more work:
//!
//! ```text
//! y_i = layer_i(x_i)        dx_i, dW_i = gradients of sum(y_i * dy_i)        dy_{i-1} = dx_i
//! ```

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Gradients as AutodiffGradients, Int, Tensor};
use vila_u_kernels::{COMPOSED_QUERIES, seed_dropout};

use super::chunked_attention;
use crate::data::seed::mix;
use crate::device::is_cpu;
use crate::language::{DecoderLayer, Llama, RotaryEmbedding};
use crate::training::optimizer::Gradients;

/// The layers of a language model, run without autodiff.
pub(crate) struct CheckpointedLayers {
    layers: Vec<DecoderLayer>,
    /// The input of each layer, `[rows, length, hidden]`, detached.
    inputs: Vec<Tensor<3>>,
    rotation: RotaryEmbedding,
    mask: Tensor<4, Bool>,
    /// The input of the first layer, tracked by autodiff.
    embeds: Tensor<3>,
    /// The output of the last layer, where the graph of the losses begins.
    output: Tensor<3>,
    dropout: Option<DropoutSeed>,
    /// How many queries' attention is recorded at a time; none where its kernel, the CPU's, keeps no scores.
    queries: Option<usize>,
}

/// A layer with dropout has to drop the same again.
struct DropoutSeed {
    device: Device,
    seed: u64,
}

impl DropoutSeed {
    fn apply(&self, layer: usize) {
        let seed = mix(self.seed, layer as u64);
        self.device.seed(seed);
        seed_dropout(seed);
    }
}

impl CheckpointedLayers {
    /// Runs the layers on `embeds`; arguments are those of [`Llama::forward`]. `seed`: of the
    /// layers' dropout, if they have any.
    pub(crate) fn forward(
        llm: &Llama,
        embeds: Tensor<3>,
        positions: Tensor<2, Int>,
        mask: Tensor<4, Bool>,
        seed: Option<u64>,
    ) -> Self {
        let rotation = llm.rotation(positions);
        let layers = llm.model.layers.clone();
        let dropout = seed.map(|seed| DropoutSeed {
            device: embeds.device(),
            seed,
        });
        let mut x = embeds.clone().inner().autodiff();
        // Where nothing up to here is trained, there is nothing to go back for.
        let learns = embeds.is_tracked() || layers.iter().any(is_trained);
        let mut inputs = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            inputs.push(x.clone());
            if let Some(dropout) = &dropout {
                dropout.apply(index);
            }
            let layer = layer.clone().no_grad();
            x = layer.forward(x, &rotation, Some(mask.clone()), None);
        }
        Self {
            layers,
            inputs,
            rotation,
            mask,
            queries: (!is_cpu(&embeds.device())).then_some(COMPOSED_QUERIES),
            embeds,
            output: if learns { x.require_grad() } else { x },
            dropout,
        }
    }

    /// The output of the last layer; what is computed from it is tracked by autodiff.
    pub(crate) fn output(&self) -> Tensor<3> {
        self.output.clone()
    }

    /// Backpropagates through the layers, from the gradients of the losses, of which that of the output is
    /// taken. Adds the layers' gradients to `gradients`, one layer after the other, and returns those of what made the
    /// embeddings.
    pub(crate) fn backward(
        self,
        grads: &mut AutodiffGradients,
        gradients: &mut Gradients,
    ) -> Option<AutodiffGradients> {
        let mut grad = self.output.grad_remove(grads)?;
        drop(self.output);
        let layers = self.layers.into_iter().zip(self.inputs).enumerate();
        for (index, (layer, input)) in layers.rev() {
            if let Some(dropout) = &self.dropout {
                dropout.apply(index);
            }
            let input = input.require_grad();
            let (rotation, mask) = (&self.rotation, &self.mask);
            let of_layer = match self.queries {
                None => whole(&layer, input, rotation, mask, grad),
                Some(queries) => {
                    chunked_attention::backward(&layer, input, rotation, mask, grad, queries)
                }
            };
            let (of_layer, next) = of_layer?;
            grad = next;
            gradients.add(of_layer);
        }
        let tracked = self.embeds.is_tracked();
        tracked.then(|| backward_from(self.embeds, grad))
    }
}

/// The layer's gradients and that of its input, or none where nothing reaches the input.
fn whole(
    layer: &DecoderLayer,
    input: Tensor<3>,
    rotation: &RotaryEmbedding,
    mask: &Tensor<4, Bool>,
    grad: Tensor<3>,
) -> Option<(Gradients, Tensor<3>)> {
    let y = layer.forward(input.clone(), rotation, Some(mask.clone()), None);
    let mut grads = backward_from(y, grad);
    let input_grad = input.grad_remove(&mut grads)?;
    Some((Gradients::of(layer, grads), input_grad))
}

/// Whether any parameter is trained.
fn is_trained<M: Module>(module: &M) -> bool {
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

/// A backward pass that starts with the gradient of `y`.
pub(super) fn backward_from(y: Tensor<3>, grad: Tensor<3>) -> AutodiffGradients {
    (y * grad.autodiff()).sum().backward()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Distribution, TensorData};

    use super::*;
    use crate::language::lora::{LoraConfig, TARGETS};
    use crate::language::{LlamaConfig, causal_mask};
    use crate::parameters;

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
        struct Train;
        impl parameters::Mapper for Train {
            fn map<const D: usize>(
                &mut self,
                path: &str,
                param: Param<Tensor<D>>,
            ) -> Param<Tensor<D>> {
                if !path.contains(".lora.") {
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
        parameters::map(llm.adapted(&config, device), &mut Train)
    }

    fn numbers(first: i64, device: &Device) -> Tensor<2, Int> {
        let numbers: Vec<i64> = (first..first + 2 * LENGTH as i64).collect();
        Tensor::from_data(TensorData::new(numbers, [2, LENGTH]), device)
    }

    /// A loss, and the gradient of every parameter in order.
    type LossAndGradients = (f32, Vec<Option<Vec<f32>>>);

    fn backward(
        llm: &Llama,
        loss: Tensor<1>,
        checkpointed: Option<CheckpointedLayers>,
    ) -> LossAndGradients {
        let mut grads = loss.backward();
        let mut gradients = Gradients::default();
        if let Some(layers) = checkpointed
            && let Some(of_embeddings) = layers.backward(&mut grads, &mut gradients)
        {
            gradients.add(Gradients::of(llm, of_embeddings));
        }
        gradients.add(Gradients::of(llm, grads));
        (loss.into_scalar(), gradients.in_order(llm))
    }

    fn loss(llm: &Llama, hidden: Tensor<3>) -> Tensor<1> {
        llm.logits(hidden).square().mean()
    }

    fn checkpointed(llm: &Llama, device: &Device, seed: Option<u64>) -> LossAndGradients {
        checkpointed_by(None, llm, device, seed)
    }

    /// With the attention of so many queries recorded at a time.
    fn checkpointed_by(
        queries: Option<usize>,
        llm: &Llama,
        device: &Device,
        seed: Option<u64>,
    ) -> LossAndGradients {
        let embeds = llm.embed(numbers(3, device));
        let mask = causal_mask(LENGTH, LENGTH, device);
        let mut layers = CheckpointedLayers::forward(llm, embeds, numbers(0, device), mask, seed);
        layers.queries = queries;
        let loss = loss(llm, llm.normalised(layers.output()));
        backward(llm, loss, Some(layers))
    }

    #[test]
    fn gradients_are_those_of_what_is_kept() {
        let device = Device::flex().autodiff();
        for tied in [false, true] {
            let llm = llm(tied, &device);
            let embeds = llm.embed(numbers(3, &device));
            let mask = causal_mask(LENGTH, LENGTH, &device);
            let hidden = llm.forward(embeds, numbers(0, &device), Some(mask), None);
            let kept = backward(&llm, loss(&llm, hidden), None);
            assert!(kept.1.iter().all(Option::is_some));
            assert_eq!(checkpointed(&llm, &device, None), kept, "tied: {tied}");
        }
    }

    #[test]
    fn attention_in_chunks_has_the_gradients_of_the_whole() {
        let device = Device::flex().autodiff();
        let adapters = adapted(llm(false, &device), &device);
        for (llm, seed) in [(llm(true, &device), None), (adapters, Some(7))] {
            let want = checkpointed(&llm, &device, seed);
            for queries in [2, LENGTH] {
                let got = checkpointed_by(Some(queries), &llm, &device, seed);
                assert_eq!(got.0, want.0);
                assert_eq!(got.1.len(), want.1.len());
                for (got, want) in got.1.iter().zip(&want.1) {
                    assert_eq!(got.is_some(), want.is_some());
                    let pairs = got.iter().flatten().zip(want.iter().flatten());
                    let off = pairs.map(|(got, want)| (got - want).abs());
                    let largest = want.iter().flatten().map(|want| want.abs());
                    let (off, largest) = (off.fold(0.0, f32::max), largest.fold(0.0, f32::max));
                    assert!(off <= 1e-5 * largest, "off by {off:e} of {largest:e}");
                }
            }
        }
    }

    /// What is dropped going back is what was dropped going forward: otherwise the gradients would be
    /// those of another loss.
    #[test]
    fn dropout_is_the_same_both_times() {
        let device = Device::flex().autodiff();
        let llm = adapted(llm(false, &device), &device);
        let seed = 7;
        // All activations kept, each layer with the dropout that it has there.
        let kept = || {
            let rotation = llm.rotation(numbers(0, &device));
            let dropout = DropoutSeed {
                device: device.clone(),
                seed,
            };
            let mut x = llm.embed(numbers(3, &device));
            for (index, layer) in llm.model.layers.iter().enumerate() {
                dropout.apply(index);
                let mask = causal_mask(LENGTH, LENGTH, &device);
                x = layer.forward(x, &rotation, Some(mask), None);
            }
            backward(&llm, loss(&llm, llm.normalised(x)), None)
        };
        assert!(kept().1.iter().flatten().count() == 3 * 7 * 2);
        assert_ne!(checkpointed(&llm, &device, Some(seed + 1)).0, kept().0);
        assert_eq!(checkpointed(&llm, &device, Some(seed)), kept());
    }
}
