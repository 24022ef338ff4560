"""Classifies the recorded model's pictures with open_clip's functions, and records what comes of it.

    peers/bin/pip install torch torchvision transformers open_clip_torch 'numpy<2.4'
    peers/bin/python tools/record_zero_shot.py     # writes crates/vila-u/tests/golden/zero_shot.safetensors

Pictures become pixels by open_clip's `image_transform` as its SigLIP models have it, classes become vectors by its
`build_zero_shot_classifier`, and its `accuracy` counts the right ones. The encoders are those of `transformers`, with the
weights of `tests/golden/tiny-d4`; the residual quantizer is written here. The recorded model has no tokenizer: what a
tokenizer makes of a text follows from a formula (`token_ids`, in Rust in tests/golden/zero_shot.rs).
"""

import json
from pathlib import Path

import torch
from open_clip import build_zero_shot_classifier, image_transform
from open_clip_train.zero_shot import accuracy
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel

GOLDEN = Path(__file__).parent.parent / "crates/vila-u/tests/golden"

CLASSES, TEMPLATES, TOKENS, WORDS = 24, 3, 16, 300


def token_ids(texts):
    """Of texts "template class"."""
    numbers = [tuple(map(int, text.split())) for text in texts]
    return torch.tensor(
        [[(31 * label + 7 * template + 11 * at * (label + 2)) % WORDS for at in range(TOKENS)] for template, label in numbers]
    )


class Tower(torch.nn.Module):
    """The tower of a checkpoint as open_clip sees a model; its code grid is that of its features."""

    def __init__(self, checkpoint):
        super().__init__()
        config = json.loads((checkpoint / "vision_tower/config.json").read_text())["rqvaesiglip"]
        weights = {}
        for file in sorted((checkpoint / "vision_tower").glob("*.safetensors")):
            weights |= {key.removeprefix("rqvaesiglip."): value.float() for key, value in load_file(file).items()}
        encoders = checkpoint / config["pretrained_model"]
        self.siglip = SiglipModel(SiglipConfig.from_pretrained(encoders)).eval()
        siglip = {key.removeprefix("siglip_model."): value for key, value in weights.items() if "siglip_model." in key}
        scale = {name: weights[name] for name in ["logit_scale", "logit_bias"] if name in weights}
        self.siglip.load_state_dict(siglip | scale)
        self.depth = config["code_shape"][2]
        # One codebook for each depth, or for all; the last row is padding.
        self.codebooks = [
            weights[f"quantizer.codebooks.{0 if config['shared_codebook'] else depth}.weight"][:-1]
            for depth in range(self.depth)
        ]
        self.size = self.siglip.config.vision_config.image_size
        self.pixels = image_transform(
            self.size, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash", interpolation="bicubic"
        )

    def encode_text(self, ids, normalize):
        pooled = self.siglip.text_model(input_ids=ids).pooler_output
        return torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled

    def image_embeds(self, pixels):
        """By the name of the features: those from the first code of each position, the first two, ..., unquantized."""
        vision = self.siglip.vision_model
        features = vision.embeddings(pixels)
        for layer in vision.encoder.layers[:-1]:
            features = hidden(layer(features, attention_mask=None))
        sets = dict(enumerate(self.quantized(features), start=1)) | {"unquantized": features}
        return {name: self.pooled(features) for name, features in sets.items()}

    def quantized(self, features):
        residual, total = features, torch.zeros_like(features)
        for codebook in self.codebooks:
            row = codebook[torch.cdist(residual, codebook[None]).argmin(-1)]
            residual, total = residual - row, total + row
            yield total

    def pooled(self, features):
        vision = self.siglip.vision_model
        x = vision.post_layernorm(hidden(vision.encoder.layers[-1](features, attention_mask=None)))
        return torch.nn.functional.normalize(vision.head(x), dim=-1)


def hidden(output):
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    tower = Tower(GOLDEN / "tiny-d4/checkpoint")
    files = sorted((GOLDEN / "tiny-d4/inputs").glob("*.png"))
    pixels = torch.stack([tower.pixels(Image.open(file)) for file in files])
    classifier = build_zero_shot_classifier(
        tower,
        token_ids,
        classnames=[str(label) for label in range(CLASSES)],
        templates=[f"{template} {{}}" for template in range(TEMPLATES)],
    )
    embeds = tower.image_embeds(pixels)
    # Classes that are right for some: a different one of the best for each picture.
    best = (embeds[tower.depth] @ classifier).argsort(descending=True)
    targets = torch.tensor([best[at, (3 * at) % 8] for at in range(len(files))])
    recorded = {"classifier": classifier.T.contiguous(), "targets": targets}
    for name, features in embeds.items():
        logits = 100.0 * features @ classifier
        recorded[f"logits.{name}"] = logits
        right = accuracy(logits, targets, topk=(1, 5))
        recorded[f"right.{name}"] = torch.tensor([int(count) for count in right])
        print(name, right, "of", len(files))
    save_file(recorded, GOLDEN / "zero_shot.safetensors")


if __name__ == "__main__":
    main()
