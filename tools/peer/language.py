"""The language model: a LLaMA decoder that reads embeddings, with a preallocated key/value cache."""

import torch
import torch.nn.functional as F
from torch import nn


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.float()  # normalised in float32 whatever the weights are
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Cache:
    """Keys and values of all layers, room for `capacity` positions."""

    def __init__(self, config, batch, capacity, dtype):
        shape = (config.layers, 2, batch, config.heads, capacity, config.hidden // config.heads)
        self.values = torch.zeros(shape, dtype=dtype)
        self.filled = 0

    def append(self, layer, key, value):
        end = self.filled + key.shape[2]
        keys, values = self.values[layer]
        keys[:, :, self.filled : end] = key
        values[:, :, self.filled : end] = value
        return keys[:, :, :end], values[:, :, :end]


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, intermediate = config.hidden, config.intermediate
        linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        self.heads = config.heads
        self.input_layernorm = RmsNorm(hidden)
        self.q_proj, self.k_proj = linear(hidden, hidden), linear(hidden, hidden)
        self.v_proj, self.o_proj = linear(hidden, hidden), linear(hidden, hidden)
        self.post_attention_layernorm = RmsNorm(hidden)
        self.gate_proj, self.up_proj = linear(hidden, intermediate), linear(hidden, intermediate)
        self.down_proj = linear(intermediate, hidden)

    def forward(self, x, rotation, mask, cache, index):
        y = self.input_layernorm(x)
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query = rotate(split(self.q_proj(y)), rotation)
        key = rotate(split(self.k_proj(y)), rotation)
        value = split(self.v_proj(y))
        if cache is not None:
            key, value = cache.append(index, key, value)
        causal = mask is None and query.shape[2] > 1
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        x = x + self.o_proj(y.transpose(1, 2).flatten(2))
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


def rotate(x, rotation):
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Llama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.head_dim = config.hidden // config.heads
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RmsNorm(config.hidden)
        self.lm_head = nn.Linear(config.hidden, config.vocabulary, bias=False)

    def forward(self, x, positions, mask=None, cache=None):
        """Embeddings `[batch, positions, hidden]` to hidden states of the same shape.

        mask: `[batch, 1, positions, keys]`, true where a position may look; none is causal.
        """
        frequencies = 10000.0 ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        angles = (positions[..., None] * frequencies).repeat(1, 1, 2)[:, None]
        rotation = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, mask, cache, index)
        if cache is not None:
            cache.filled += x.shape[1]
        return self.norm(x)
