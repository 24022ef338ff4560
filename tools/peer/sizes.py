"""Sizes of the models that are timed. Nothing here needs PyTorch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LlamaConfig:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int


@dataclass(frozen=True)
class DepthConfig:
    depth: int
    width: int
    layers: int
    heads: int
    codes: int
    code_width: int
    language_width: int


@dataclass(frozen=True)
class TowerConfig:
    image: int
    patch: int
    width: int
    intermediate: int
    layers: int
    heads: int
    codes: int
    depth: int
    channels: tuple  # of the pixel decoder's levels, from the finest to the coarsest
    blocks: int  # residual blocks of each level
    decoder_grid: int  # side of the grid that the pixel decoder starts from

    @property
    def grid(self):
        return self.image // self.patch


LLAMA_2_7B = LlamaConfig(hidden=4096, intermediate=11008, layers=32, heads=32, vocabulary=32004)
DEPTH_256 = DepthConfig(
    depth=4, width=2560, layers=6, heads=40, codes=16384, code_width=1024, language_width=4096
)
DEPTH_384 = DepthConfig(
    depth=16, width=2560, layers=6, heads=40, codes=16384, code_width=1152, language_width=4096
)
TOWER_256 = TowerConfig(
    image=256,
    patch=16,
    width=1024,
    intermediate=4096,
    layers=24,
    heads=16,
    codes=16384,
    depth=4,
    channels=(128, 128, 256, 256, 512),
    blocks=3,
    decoder_grid=16,
)
TOWER_384 = TowerConfig(
    image=384,
    patch=14,
    width=1152,
    intermediate=4304,
    layers=27,
    heads=16,
    codes=16384,
    depth=16,
    channels=(128, 128, 256, 256, 512),
    blocks=3,
    decoder_grid=24,
)

# The embedded model.
LLAMA_NANO = LlamaConfig(hidden=256, intermediate=704, layers=4, heads=4, vocabulary=895)
DEPTH_NANO = DepthConfig(
    depth=4, width=128, layers=2, heads=4, codes=512, code_width=192, language_width=256
)
TOWER_NANO = TowerConfig(
    image=64,
    patch=8,
    width=192,
    intermediate=768,
    layers=4,
    heads=3,
    codes=512,
    depth=4,
    channels=(32, 32, 64, 128),
    blocks=1,
    decoder_grid=8,
)
# Tokens before the first visual one: the system prompt, a caption, the token that starts an image.
PROMPT = 44

# What generates images: the language model, the depth transformer and the tower.
MODELS = {
    "nano": (LLAMA_NANO, DEPTH_NANO, TOWER_NANO),
    "vila-u-7b-256": (LLAMA_2_7B, DEPTH_256, TOWER_256),
}
