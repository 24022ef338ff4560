//! Contrastive losses: a picture and its text belong together, all other pairs of the batch do not.
//!
//! ```text
//! sigmoid   -1/n sum_ij log sigmoid(z_ij (t cos_ij + b)),  z = 1 where i = j, else -1     (SigLIP, arXiv 2303.15343)
//! softmax   -1/2n sum_i (log softmax_j(t cos_ij)[i] + log softmax_j(t cos_ji)[i])         (CLIP, arXiv 2103.00020)
//! ```

use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{Bool, Tensor};

use crate::tower::Siglip;
use crate::training::recipe::Contrastive;

/// CLIP's largest factor on cosines: beyond it training becomes unstable.
const LARGEST_SCALE: f64 = 100.0;

/// The loss of matching unit vectors, both `[n, hidden]`: the one place where the pictures and the texts
/// of a batch meet.
pub fn contrastive(
    kind: Contrastive,
    siglip: &Siglip,
    images: Tensor<2>,
    texts: Tensor<2>,
) -> Tensor<1> {
    match kind {
        Contrastive::Sigmoid => sigmoid(siglip.logits_per_image(images, texts)),
        Contrastive::Softmax => {
            // Without the bias, which a softmax does not see.
            let scale = siglip.logit_scale.val().clamp_max(LARGEST_SCALE.ln());
            softmax(images.matmul(texts.transpose()) * scale.exp().unsqueeze())
        }
    }
}

/// The pairwise sigmoid loss of logits `[n, n]`, image i and text i belong together.
pub fn sigmoid(logits: Tensor<2>) -> Tensor<1> {
    let [n, _] = logits.dims();
    let z = Tensor::eye(n, &logits.device()) * 2.0 - 1.0;
    -log_sigmoid(logits * z).sum() / n as f64
}

/// The symmetric cross entropy of logits `[n, n]`, image i and text i belong together.
pub fn softmax(logits: Tensor<2>) -> Tensor<1> {
    let [n, _] = logits.dims();
    let others = Tensor::<2, Bool>::diag_mask([n, n], 0, &logits.device());
    let both = log_softmax(logits.clone(), 1) + log_softmax(logits, 0);
    -both.mask_fill(others, 0.0).sum() / (2 * n) as f64
}
