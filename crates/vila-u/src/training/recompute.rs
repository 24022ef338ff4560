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

use burn::module::Module;
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
        let mut x = unrecorded(embeds.clone());
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
            top: x.require_grad(),
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

/// The tape of a gradient that arrives at `y`.
fn arrive(y: Tensor<3>, slope: Tensor<3>) -> Tape {
    (y * Tensor::from_inner(slope)).sum().backward()
}

/// The same numbers on the same device, without what they depend on.
fn unrecorded(x: Tensor<3>) -> Tensor<3> {
    Tensor::from_inner(x.inner())
}
