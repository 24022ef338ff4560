//! The game of decoder and discriminator, with hinge losses (arXiv 1705.02894) and the weight that VQGAN (arXiv
//! 2012.09841) gives it:
//!
//! ```text
//! L_discriminator = 1/2 (mean max(0, 1 - D(x)) + mean max(0, 1 + D(y)))      x a picture, y a reconstruction
//! L_decoder       = lambda * -mean D(y),   lambda = |dL_rec / dw| / (|dL_decoder / dw| + 1e-4)
//! ```
//!
//! `w` is the decoder's last convolution: both losses pull on it equally hard, whatever their sizes.
//!
//! Both players learn in one backward pass, since neither's loss reaches the other: the discriminator sees a
//! reconstruction that is held constant, the decoder a discriminator that is.

use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::tower::pixel_decoder::convolve;

/// Keeps lambda finite where the discriminator does not care.
const EPSILON: f64 = 1e-4;
const LARGEST: f64 = 1e4;

/// What the discriminator minimises: how wrong it is about pictures and reconstructions, of which it is given
/// what it thinks of each patch.
pub fn discriminator_loss(real: Tensor<4>, drawn: Tensor<4>) -> Tensor<1> {
    (relu(-real + 1.0).mean() + relu(drawn + 1.0).mean()) * 0.5
}

/// What the decoder minimises, given what the discriminator thinks of each patch of a reconstruction.
pub fn decoder_loss(drawn: Tensor<4>) -> Tensor<1> {
    -drawn.mean()
}

/// A loss of reconstructions, and which way it pulls each of their pixels. Held constant.
pub struct Pull {
    pub loss: Tensor<1>,
    pub gradient: Tensor<4>,
}

impl Pull {
    /// Of `loss` at the reconstructions `drawn`.
    pub fn of(drawn: &Tensor<4>, loss: impl FnOnce(Tensor<4>) -> Tensor<1>) -> Self {
        let drawn = Tensor::from_inner(drawn.clone().inner()).require_grad();
        let loss = loss(drawn.clone());
        let mut gradients = loss.backward();
        let gradient = match drawn.grad_remove(&mut gradients) {
            Some(gradient) => gradient,
            None => drawn.inner().zeros_like(),
        };
        Self {
            loss: loss.inner(),
            gradient,
        }
    }

    /// Pulls as `weight` times the other too. The loss stays: how the game stands says nothing about how far
    /// pictures are from what they should be.
    pub fn with(self, other: &Self, weight: Tensor<1>) -> Self {
        Self {
            gradient: self.gradient + other.gradient.clone() * weight.unsqueeze(),
            ..self
        }
    }

    /// The loss again, now pulling on everything that `drawn` was made of.
    pub fn on(self, drawn: Tensor<4>) -> Tensor<1> {
        silent((drawn * self.gradient).sum()) + self.loss
    }
}

/// Zero, with the gradient of `loss`.
pub fn silent(loss: Tensor<1>) -> Tensor<1> {
    loss.clone() - loss.detach()
}

/// Lambda, from what the reconstruction's loss and the decoder's adversarial loss pull on the weight of `last`,
/// the convolution that made the pictures of `features`.
pub fn adaptive_weight(
    last: &Conv2d,
    features: Tensor<4>,
    reconstruction: &Pull,
    adversarial: &Pull,
) -> Tensor<1> {
    let features = Tensor::from_inner(features.inner());
    let norm = |pull: &Pull| -> Tensor<1> {
        let mut last = last.clone();
        last.weight = last
            .weight
            .map(|weight| Tensor::from_inner(weight.inner()).require_grad());
        let pulled = (convolve(&last, features.clone()) * pull.gradient.clone()).sum();
        let mut gradients = pulled.backward();
        let gradient = last.weight.val().grad_remove(&mut gradients);
        match gradient {
            Some(gradient) => gradient.square().sum().sqrt(),
            None => Tensor::zeros([1], &pull.gradient.device()),
        }
    };
    (norm(reconstruction) / (norm(adversarial) + EPSILON)).clamp(0.0, LARGEST)
}
