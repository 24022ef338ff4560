"""Times plain PyTorch modules of VILA-U's shapes, eager, on the CPU or a CUDA device.

    python tools/bench_pytorch.py --suite decode --dtype bf16 --json
    python tools/bench_pytorch.py --device cuda --suite generate --model vila-u-7b-256 --dtype f16

One line a case: the best of several runs, on the CPU with the better number of threads. Suites and cases have
the names that `vila-u bench` gives them; tools/README.md says what each one is.
"""

import argparse
import os
import sys
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from peer.depth import DepthTransformer
from peer.language import Cache, Llama
from peer.layers import random_weights
from peer.sizes import DEPTH_256, DEPTH_384, DEPTH_NANO, LLAMA_2_7B, MODELS, PROMPT
from peer.sizes import TOWER_256, TOWER_384, TOWER_NANO
from peer.timing import Bench, flop
from peer.tower import TextModel, VisionTower

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
BUFFER = 2 << 30  # bytes; far more than a cache holds
LONGEST = 60.0  # seconds of a case that generates; what takes longer is left out


def size(module):
    """Bytes of all weights."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def machine(bench, name, dtype):
    n = 4096
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    gflop = 2 * n**3 / 1e9
    bench.case("machine", "matmul", name, lambda: a @ b, lambda s: {"gflop_per_s": gflop / s})
    if dtype == torch.float32:
        source, target = torch.ones(BUFFER // 4), torch.zeros(BUFFER // 4)
        bench.case("machine", "read", name, source.sum, lambda s: {"gb_per_s": BUFFER / s / 1e9})
        copy = lambda: target.copy_(source)
        bench.case("machine", "copy", name, copy, lambda s: {"gb_per_s": 2 * BUFFER / s / 1e9})


def decode(bench, name, dtype, layers):
    config = replace(LLAMA_2_7B, layers=layers)
    batch, past = 2, 256
    model = random_weights(lambda: Llama(config), dtype)
    cache = Cache(config, batch, past + 1, dtype)
    cache.values.normal_()
    x = torch.randn(batch, 1, config.hidden).to(dtype)
    positions = torch.full((batch, 1), past)

    def token():
        cache.filled = past
        model(x, positions, cache=cache)

    prompt = torch.randn(1, 1000, config.hidden).to(dtype)
    prompt_cache = Cache(config, 1, 1000, dtype)

    def read():
        prompt_cache.filled = 0
        model(prompt, torch.arange(1000)[None], cache=prompt_cache)

    weights, head = size(model.layers), size(model.lm_head)
    scaled = LLAMA_2_7B.layers / layers
    bench.case(
        "decode", "layers", name, token,
        lambda s: {"layers": layers, "ms_32_layers": 1e3 * scaled * s, "gb_per_s": weights / s / 1e9},
    )  # fmt: skip
    bench.case(
        "decode", "prompt_1000", name, read,
        lambda s: {"layers": layers, "ms_32_layers": 1e3 * scaled * s},
    )  # fmt: skip
    logits = lambda: model.lm_head(x)
    bench.case("decode", "head", name, logits, lambda s: {"gb_per_s": head / s / 1e9})


def depth(bench, name, dtype):
    for config in (DEPTH_256, DEPTH_384):
        model = random_weights(lambda: DepthTransformer(config), dtype)
        codebook = torch.randn(config.codes, config.code_width).to(dtype)
        hidden = torch.randn(2, config.language_width).to(dtype)
        position = lambda: model.generate(hidden, [codebook] * config.depth)
        # Every code reads the blocks and the classifier once.
        read = config.depth * (size(model.blocks) + size(model.linear))
        rates = lambda s: {"gb_per_s": read / s / 1e9}
        bench.case("depth", f"position_d{config.depth}", name, position, rates)


def tower(bench, name, dtype):
    def parts(model, config, dtype=torch.float32):
        """What is timed, on the current device."""
        pixels = torch.randn(1, 3, config.image, config.image).to(dtype)
        features = torch.randn(1, config.grid**2, config.width).to(dtype)
        return {
            "encode": lambda: model.vision_model.features(pixels),
            "quantize": lambda: model.quantizer(features),
            "decode": lambda: model.decoder(features),
        }

    for config in (TOWER_256, TOWER_384):
        with torch.device("meta"):
            works = parts(VisionTower(config), config)
            gflop = {part: flop(work) / 1e9 for part, work in works.items()}
        model = random_weights(lambda: VisionTower(config), dtype)
        for part, work in parts(model, config, dtype).items():
            rates = lambda s: {"gflop": gflop[part], "gflop_per_s": gflop[part] / s}
            bench.case("tower", f"{part}_{config.image}", name, work, rates)


class Generator(nn.Module):
    """The language half of a model that generates images."""

    def __init__(self, llm, depth):
        super().__init__()
        self.llm = Llama(llm)
        width, hidden = depth.code_width, llm.hidden
        self.projector = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.depth = DepthTransformer(depth)


def generate(bench, name, dtype, model):
    llm, depth, tower = MODELS[model]
    generator = random_weights(lambda: Generator(llm, depth), dtype)
    shared = model != "nano"
    vision = random_weights(lambda: VisionTower(tower, shared_codebook=shared), dtype)
    codebooks = vision.quantizer.rows()

    def generate(images, frames=1):
        rows, total = 2 * images, frames * tower.grid**2
        cache = Cache(llm, rows, PROMPT + total, dtype)
        x = generator.llm.embed_tokens(torch.randint(3, 891, (rows, PROMPT)))
        positions = torch.arange(PROMPT).expand(rows, -1)
        features = []
        for index in range(total):
            hidden = generator.llm(x, positions, cache=cache)[:, -1]
            feature = generator.depth.generate(hidden, codebooks)
            features.append(feature[:images])
            x = generator.projector(feature)[:, None]
            positions = torch.full((rows, 1), PROMPT + index)
        features = torch.stack(features, 1).unflatten(1, (frames, -1)).flatten(0, 1)
        return vision.decoder(features)

    each = 0.0  # seconds, as the case before tells
    for case, images, frames in (
        ("generate_1", 1, 1), ("video_8", 1, 8), ("generate_4", 4, 1), ("generate_16", 16, 1), ("generate_64", 64, 1),
    ):  # fmt: skip
        every = images * frames
        if each * every > LONGEST:
            print(f"generate {case} is left out: about {each * every:.0f} s", file=sys.stderr)
            continue
        rates = lambda s: {"images_per_s": every / s}
        try:
            each = bench.case("generate", case, name, lambda: generate(images, frames), rates) / every
        except torch.OutOfMemoryError as error:
            print(f"generate {case} is left out: {error}", file=sys.stderr)
            torch.cuda.empty_cache()


def optimizer_step(parameters, loss, dtype):
    """Forward in mixed precision where `dtype` asks for it, backward, clipping, AdamW."""
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )

    def step():
        optimizer.zero_grad()
        with torch.autocast(
            parameters[0].device.type, torch.bfloat16, enabled=dtype == torch.bfloat16
        ):
            total = loss()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def train(bench, name, dtype):
    if dtype == torch.float16:
        return  # needs its loss scaled: recipes train in f32 or bf16
    for case, batch, (parameters, loss) in (
        ("nano_tower", 32, tower_objective(32)),
        ("nano_language", 16, language_objective(16)),
    ):
        step = optimizer_step(parameters, loss, dtype)
        rates = lambda s: {"steps_per_s": 1 / s, "samples_per_s": batch / s}
        bench.case("train", case, name, step, rates)


def tower_objective(batch):
    """Stage 2 of the nano tower: contrastive + reconstruction through the codes."""
    model = random_weights(lambda: VisionTower(TOWER_NANO, shared_codebook=False), torch.float32)
    texts = random_weights(lambda: TextModel(TOWER_NANO, 497, 24), torch.float32)
    scale, bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-10.0))
    pixels = torch.rand(batch, 3, TOWER_NANO.image, TOWER_NANO.image) * 2 - 1
    ids = torch.randint(0, 497, (batch, 24))
    signs = 2 * torch.eye(batch) - 1

    def loss():
        with torch.no_grad():
            text = F.normalize(texts.pooled(ids), dim=-1)
        features = model.vision_model.features(pixels)
        _, quantized, commitment = model.quantizer(features, train=True)
        image = F.normalize(model.vision_model.pooled(quantized), dim=-1)
        logits = image @ text.t() * scale.exp() + bias
        contrastive = -F.logsigmoid(logits.float() * signs).sum() / batch
        pixel = (model.decoder(quantized) - pixels).abs().mean()
        return contrastive + 8.0 * pixel + 0.5 * commitment

    return [*model.parameters(), scale, bias], loss


def language_objective(batch):
    """A batch as nano-sft's: of 16 samples 11 are images to generate, the others are answers in text.

    The pictures are new, so the frozen tower encodes them first.
    """
    model = random_weights(lambda: Generator(*MODELS["nano"][:2]), torch.float32)
    vision = random_weights(lambda: VisionTower(TOWER_NANO, shared_codebook=False), torch.float32)
    visual, reply = TOWER_NANO.grid**2, 4  # positions of an image; text targets of a sample
    generations = batch * 11 // 16
    before, after = PROMPT, 4
    length = before + visual + after
    ids = torch.randint(3, 891, (batch, before + after))
    pixels = torch.rand(batch, 3, TOWER_NANO.image, TOWER_NANO.image) * 2 - 1
    positions = torch.arange(length).expand(batch, -1)
    # Packed samples have a mask of their own; here it is that of one sample a row.
    mask = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, 1, -1, -1)
    shown = (torch.rand(batch, visual, 1) < 0.75).float()

    def loss():
        with torch.no_grad():
            codes, _, _ = vision.quantizer(vision.vision_model.features(pixels))
            codes = codes.view(batch, visual, -1)
            books = vision.quantizer.rows()
            sums = torch.stack([b[codes[..., d]] for d, b in enumerate(books)], 2).cumsum(2)
        text = model.llm.embed_tokens(ids)
        embedded = model.projector(sums[:, :, -1] * shown)
        x = torch.cat((text[:, :before], embedded.to(text.dtype), text[:, before:]), 1)
        hidden = model.llm(x, positions, mask)
        logits = model.llm.lm_head(hidden[:, -reply - 1 : -1])
        text_loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, -reply:].flatten())
        hidden = hidden[:generations, before - 1 : before - 1 + visual].flatten(0, 1)
        sums = sums[:generations, :, :-1].flatten(0, 1)
        logits = model.depth.teacher_forced(hidden, sums)
        targets = codes[:generations].flatten()
        return text_loss + F.cross_entropy(logits.float().flatten(0, 1), targets)

    return list(model.parameters()), loss


def main():
    suites = {
        "machine": machine,
        "decode": lambda *args: decode(*args, layers=options.layers),
        "depth": depth,
        "tower": tower,
        "generate": lambda *args: generate(*args, model=options.model),
        "train": train,
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", choices=[*suites, "all"], default="all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=[*DTYPES, "both"], default="both", help="both: f32, bf16")
    parser.add_argument("--layers", type=int, default=4, help="LLaMA layers that decode times")
    parser.add_argument("--model", choices=MODELS, default="nano", help="what suite generate generates with")
    parser.add_argument("--seconds", type=float, default=1.5, help="at least, a case")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({os.cpu_count(), 1}, reverse=True)
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    torch.set_default_device(options.device)
    torch.manual_seed(0)
    bench = Bench(options.device, options.threads, options.seconds, options.json)
    for suite in suites if options.suite == "all" else [options.suite]:
        for dtype in ("f32", "bf16") if options.dtype == "both" else [options.dtype]:
            with torch.inference_mode(suite != "train"):
                suites[suite](bench, dtype, DTYPES[dtype])


if __name__ == "__main__":
    main()
