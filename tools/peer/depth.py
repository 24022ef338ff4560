"""The depth transformer: a hidden state of the language model becomes D residual codes."""

import torch
import torch.nn.functional as F
from torch import nn

from .layers import attention, sample


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.ln1(x)
        y = attention(self.query(y), self.key(y), self.value(y), self.heads, is_causal=True)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.ln2(x))))


class DepthTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.depth = config.depth
        self.in_mlp_1 = nn.Linear(config.code_width, config.width)
        self.in_mlp_2 = nn.Linear(config.language_width, config.width)
        self.pos_emb_d = nn.Parameter(torch.zeros(1, config.depth, config.width))
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.layer_norm = nn.LayerNorm(config.width)
        self.linear = nn.Linear(config.width, config.codes)

    def read(self, hidden, sums):
        """Outputs `[n, 1 + len(sums), width]`, given the sums of the first code vectors."""
        x = self.in_mlp_2(hidden)[:, None]
        if sums is not None:
            x = torch.cat((x, self.in_mlp_1(sums)), 1)
        return self.blocks(x + self.pos_emb_d[:, : x.shape[1]])

    def teacher_forced(self, hidden, sums):
        """Logits `[n, depth, codes]`; sums: `[n, depth - 1, code_width]`."""
        return self.linear(self.layer_norm(self.read(hidden, sums)))

    def generate(self, hidden, codebooks, guidance=3.0):
        """The summed code vectors `[2 n, code_width]` of one visual position of n images.

        Rows `n..2n` of the hidden states are those without a caption. The prefix is read anew at
        each depth, as the authors do.

        codebooks: the rows `[codes, code_width]` of each depth
        """
        sums = None
        for codebook in codebooks:
            logits = self.linear(self.layer_norm(self.read(hidden, sums)[:, -1]))
            captioned, plain = logits.chunk(2)
            code = sample(plain + guidance * (captioned - plain))
            vector = codebook[code].repeat(2, 1)[:, None]
            sums = vector if sums is None else torch.cat((sums, sums[:, -1:] + vector), 1)
        return sums[:, -1]
