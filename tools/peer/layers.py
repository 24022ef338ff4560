"""What several parts share: random weights, heads of attention, sampling."""

import torch
import torch.nn.functional as F


def random_weights(build, dtype):
    """The module that `build()` makes on the default device, with weights that keep activations near 1.

    Made without memory first, so that no time goes into initialisations that are thrown away.
    """
    with torch.device("meta"):
        module = build()
    module = module.to(dtype).to_empty(device=torch.get_default_device()).eval()
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        with torch.no_grad():
            if parameter.dim() >= 2:
                bound = (3 / (parameter.numel() / parameter.shape[0])) ** 0.5
                parameter.uniform_(-bound, bound)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return module


def attention(query, key, value, heads, **options):
    """Multi-head attention of projections `[batch, positions, width]`."""
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(split(query), split(key), split(value), **options)
    return out.transpose(1, 2).flatten(2)


def sample(logits, top_k=900, top_p=0.96):
    """One token from each row of logits, filtered as the released model does."""
    kth = torch.topk(logits, min(top_k, logits.shape[-1])).values[..., -1:]
    probabilities = logits.masked_fill(logits < kth, float("-inf")).softmax(-1)
    ordered, indices = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    return indices.gather(-1, torch.multinomial(ordered, 1)).squeeze(-1)
