"""The vision tower: SigLIP encoders, residual quantizer, pixel decoder."""

import torch
import torch.nn.functional as F
from torch import nn

from .layers import attention


class Layer(nn.Module):
    def __init__(self, width, intermediate, heads):
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = norm(width), norm(width)
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = Mlp(width, intermediate)

    def forward(self, x):
        y = self.layer_norm1(x)
        y = attention(self.q_proj(y), self.k_proj(y), self.v_proj(y), self.heads)
        x = x + self.out_proj(y)
        return x + self.mlp(self.layer_norm2(x))


class Mlp(nn.Module):
    def __init__(self, width, intermediate):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, intermediate), nn.Linear(intermediate, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def norm(width):
    return nn.LayerNorm(width, eps=1e-6)


class VisionModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.width
        layer = lambda: Layer(width, config.intermediate, config.heads)
        self.patch_embedding = nn.Conv2d(3, width, config.patch, stride=config.patch)
        self.position_embedding = nn.Parameter(torch.zeros(config.grid**2, width))
        self.layers = nn.Sequential(*(layer() for _ in range(config.layers - 1)))
        self.last = layer()
        self.post_layernorm = norm(width)
        self.heads = config.heads
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.head_norm = norm(width)
        self.head_mlp = Mlp(width, config.intermediate)

    def features(self, pixels):
        """What is quantized: the output of the second last layer, `[batch, positions, width]`."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return self.layers(patches + self.position_embedding)

    def pooled(self, features):
        x = self.post_layernorm(self.last(features))
        probe = self.q_proj(self.probe).expand(x.shape[0], -1, -1)
        x = self.out_proj(attention(probe, self.k_proj(x), self.v_proj(x), self.heads))
        return (x + self.head_mlp(self.head_norm(x)))[:, 0]


class TextModel(nn.Module):
    def __init__(self, config, vocabulary, tokens):
        super().__init__()
        width = config.width
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Parameter(torch.zeros(tokens, width))
        layer = lambda: Layer(width, config.intermediate, config.heads)
        self.layers = nn.Sequential(*(layer() for _ in range(config.layers)))
        self.final_layer_norm = norm(width)
        self.head = nn.Linear(width, width)

    def pooled(self, ids):
        x = self.layers(self.token_embedding(ids) + self.position_embedding)
        return self.head(self.final_layer_norm(x)[:, -1])


class Codebook(nn.Module):
    """Rows that follow the vectors they stand for as running means; none takes a gradient."""

    def __init__(self, codes, width, decay=0.99):
        super().__init__()
        self.decay = decay
        self.register_buffer("weight", torch.zeros(codes, width))
        self.register_buffer("cluster_size_ema", torch.zeros(codes))
        self.register_buffer("embed_ema", torch.zeros(codes, width))

    def nearest(self, vectors):
        rows = self.weight.t()
        squares = vectors.square().sum(1, keepdim=True) + rows.square().sum(0, keepdim=True)
        return torch.addmm(squares, vectors, rows, alpha=-2.0).argmin(1)

    @torch.no_grad()
    def follow(self, vectors, codes):
        """Moves the running means towards these vectors, unused rows onto some of them."""
        count, chosen = self.weight.shape[0], torch.randperm(len(vectors))
        sizes = torch.bincount(codes, minlength=count).to(vectors.dtype)
        sums = torch.zeros_like(self.embed_ema).index_add_(0, codes, vectors)
        self.cluster_size_ema.lerp_(sizes, 1 - self.decay)
        self.embed_ema.lerp_(sums, 1 - self.decay)
        unused = self.cluster_size_ema < 1
        self.embed_ema[unused] = vectors[chosen[:count]][unused]
        self.cluster_size_ema[unused] = 1.0
        total = self.cluster_size_ema.sum()
        sizes = (self.cluster_size_ema + 1e-5) * total / (total + count * 1e-5)
        self.weight.copy_(self.embed_ema / sizes[:, None])


class ResidualQuantizer(nn.Module):
    """D codebooks, or a single one that all depths share, as in the released models."""

    def __init__(self, config, shared):
        super().__init__()
        self.depth = config.depth
        books = 1 if shared else config.depth
        self.codebooks = nn.ModuleList(Codebook(config.codes, config.width) for _ in range(books))

    def rows(self):
        return [self.codebooks[min(d, len(self.codebooks) - 1)].weight for d in range(self.depth)]

    def forward(self, features, train=False):
        """`[batch, positions, width]` to codes, quantized features and the commitment loss."""
        with torch.autocast("cuda" if features.is_cuda else "cpu", enabled=False):
            vectors = features.flatten(0, 1).to(self.codebooks[0].weight.dtype)
            residual, total = vectors.detach(), torch.zeros_like(vectors)
            codes, loss = [], 0.0
            for depth in range(self.depth):
                book = self.codebooks[min(depth, len(self.codebooks) - 1)]
                codes.append(book.nearest(residual))
                rows = book.weight[codes[-1]]
                if train:
                    book.follow(residual, codes[-1])
                residual, total = residual - rows, total + rows
                loss = loss + (vectors - total).square().mean()
            quantized = vectors + (total - vectors).detach()
        return torch.stack(codes, 1), quantized.view(features.shape), loss / self.depth


def group_norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv3x3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), conv3x3(inputs, outputs)
        self.norm2, self.conv2 = group_norm(outputs), conv3x3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class PixelAttention(nn.Module):
    """Attention of all positions on all, with a single head."""

    def __init__(self, channels):
        super().__init__()
        conv = lambda: nn.Conv2d(channels, channels, 1)
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = conv(), conv(), conv(), conv()

    def forward(self, x):
        y = self.norm(x)
        positions = lambda y: y.flatten(2).transpose(1, 2)
        y = attention(*(positions(conv(y)) for conv in (self.q, self.k, self.v)), heads=1)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PixelDecoder(nn.Module):
    """Attention stands in the middle and after each block of the coarsest level."""

    def __init__(self, config):
        super().__init__()
        self.grid, self.decoder_grid = config.grid, config.decoder_grid
        width = config.channels[-1]
        steps = [conv3x3(config.width, width)]
        steps += [ResidualBlock(width, width), PixelAttention(width), ResidualBlock(width, width)]
        for level, channels in reversed(list(enumerate(config.channels))):
            for _ in range(config.blocks):
                steps.append(ResidualBlock(width, channels))
                width = channels
                if level == len(config.channels) - 1:
                    steps.append(PixelAttention(width))
            if level > 0:
                steps.append(Upsample(width))
        self.post_quant_conv = nn.Conv2d(config.width, config.width, 1)
        self.steps = nn.Sequential(*steps, group_norm(width), nn.SiLU(), conv3x3(width, 3))

    def forward(self, features):
        """`[batch, positions, width]` to pixels `[batch, 3, size, size]`."""
        z = features.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        if self.grid != self.decoder_grid:
            z = F.interpolate(z, size=(self.decoder_grid, self.decoder_grid), mode="bilinear")
        return self.steps(self.post_quant_conv(z))


class VisionTower(nn.Module):
    def __init__(self, config, shared_codebook=True):
        super().__init__()
        self.vision_model = VisionModel(config)
        self.quantizer = ResidualQuantizer(config, shared_codebook)
        self.decoder = PixelDecoder(config)
