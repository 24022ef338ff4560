//! The adversarial losses of decoder and discriminator, hinge losses (arXiv 1705.02894) and the weight that VQGAN (arXiv
//! 2012.09841) gives it:
//!
//! ```text
//! L_discriminator = 1/2 (mean max(0, 1 - D(x)) + mean max(0, 1 + D(y)))      x a picture, y a reconstruction
//! L_decoder       = lambda * -mean D(y),   lambda = |dL_rec / dw| / (|dL_decoder / dw| + 1e-4)
//! ```
//!
//! `w` is the decoder's last convolution: both losses have gradients of equal norm there, whatever their sizes.
//!
//! Both learn in one backward pass, since neither's loss reaches the other: the discriminator sees a detached
//! reconstruction, the decoder a frozen discriminator.

use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::tower::pixel_decoder::convolve;

/// Keeps lambda finite where the discriminator has no gradient.
const EPSILON: f64 = 1e-4;
const LARGEST: f64 = 1e4;

/// What the discriminator minimises, given its logits of each patch of pictures and reconstructions.
pub fn discriminator_loss(real: Tensor<4>, fake: Tensor<4>) -> Tensor<1> {
    (relu(-real + 1.0).mean() + relu(fake + 1.0).mean()) * 0.5
}

/// What the decoder minimises, given the discriminator's logits of each patch of reconstructions.
pub fn decoder_loss(fake: Tensor<4>) -> Tensor<1> {
    -fake.mean()
}

/// A loss of reconstructions and its gradient with respect to their pixels, both detached.
pub struct PixelGrad {
    pub loss: Tensor<1>,
    pub grad: Tensor<4>,
}

impl PixelGrad {
    /// Of `loss` at the reconstructions `images`.
    pub fn of(images: &Tensor<4>, loss: impl FnOnce(Tensor<4>) -> Tensor<1>) -> Self {
        let images = Tensor::from_inner(images.clone().inner()).require_grad();
        let loss = loss(images.clone());
        let mut gradients = loss.backward();
        let grad = match images.grad_remove(&mut gradients) {
            Some(grad) => grad,
            None => images.inner().zeros_like(),
        };
        Self {
            loss: loss.inner(),
            grad,
        }
    }

    /// Adds `weight` times the other's gradient. The loss stays: the adversarial loss says nothing about how far
    /// reconstructions are from their pictures.
    pub fn add_grad(self, other: &Self, weight: Tensor<1>) -> Self {
        Self {
            grad: self.grad + other.grad.clone() * weight.unsqueeze(),
            ..self
        }
    }

    /// The loss, with this gradient for everything that `images` were computed from.
    pub fn attach(self, images: Tensor<4>) -> Tensor<1> {
        gradient_only((images * self.grad).sum()) + self.loss
    }
}

/// Zero, with the gradient of `loss`.
pub fn gradient_only(loss: Tensor<1>) -> Tensor<1> {
    loss.clone() - loss.detach()
}

/// Lambda, from the gradients that the reconstruction's loss and the decoder's adversarial loss have for the
/// weight of `last`, the convolution that made the pictures of `features`.
pub fn adaptive_weight(
    last: &Conv2d,
    features: Tensor<4>,
    reconstruction: &PixelGrad,
    adversarial: &PixelGrad,
) -> Tensor<1> {
    let features = Tensor::from_inner(features.inner());
    let norm = |of: &PixelGrad| -> Tensor<1> {
        let mut last = last.clone();
        last.weight = last
            .weight
            .map(|weight| Tensor::from_inner(weight.inner()).require_grad());
        let images = convolve(&last, features.clone());
        let mut gradients = (images * of.grad.clone()).sum().backward();
        let gradient = last.weight.val().grad_remove(&mut gradients);
        match gradient {
            Some(gradient) => gradient.square().sum().sqrt(),
            None => Tensor::zeros([1], &of.grad.device()),
        }
    };
    (norm(reconstruction) / (norm(adversarial) + EPSILON)).clamp(0.0, LARGEST)
}
