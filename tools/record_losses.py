"""Computes the tower's losses and their gradients in PyTorch, from the papers, and records them.

    peers/bin/pip install torch numpy safetensors lpips
    peers/bin/python tools/record_losses.py        # writes crates/vila-u/tests/golden/losses.safetensors

Inputs and weights follow from a formula (`numbers`, in Rust in tests/golden/losses.rs), so that only results
are recorded. VGG16 has its own list of layers at a sixteenth of its width. Where the package `lpips` is installed,
the LPIPS written here is also compared with it, at full width.
"""

import math
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUTPUT = Path(__file__).parent.parent / "crates/vila-u/tests/golden/losses.safetensors"

CHANNELS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
POOLED_BEFORE = {2, 4, 7, 10}  # convolutions that begin a block
COMPARED_AFTER = {1, 3, 6, 9, 12}


def numbers(salt, shape, scale=1.0):
    """Hashed integers as numbers in -scale..scale; `salt` tells tensors apart."""
    x = numpy.arange(math.prod(shape), dtype=numpy.uint32)
    with numpy.errstate(over="ignore"):
        x = x * numpy.uint32(0x9E3779B9) + numpy.uint32(salt * 0x85EBCA6B & 0xFFFFFFFF)
        x = (x ^ (x >> 16)) * numpy.uint32(0x21F0AAAD)
        x = (x ^ (x >> 15)) * numpy.uint32(0x735A2D97)
        x = x ^ (x >> 15)
    values = (x.astype(numpy.float64) / 2**32 * 2 - 1) * scale
    return torch.from_numpy(values.astype(numpy.float32)).reshape(shape)


def leaf(tensor):
    return tensor.clone().requires_grad_()


def vgg(divisor):
    """Weights and biases of VGG16's convolutions, and the linear heads."""
    convolutions, inputs = [], 3
    for index, channels in enumerate(CHANNELS):
        outputs = channels // divisor
        weight = numbers(100 + index, (outputs, inputs, 3, 3), math.sqrt(6 / (9 * inputs)))
        convolutions.append((weight, numbers(200 + index, (outputs,), 0.1)))
        inputs = outputs
    heads = [
        numbers(300 + head, (1, CHANNELS[index] // divisor, 1, 1)).abs()
        for head, index in enumerate(sorted(COMPARED_AFTER))
    ]
    return convolutions, heads


def vgg_features(pixels, convolutions):
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, found = (pixels - shift) / scale, []
    for index, (weight, bias) in enumerate(convolutions):
        if index in POOLED_BEFORE:
            x = F.max_pool2d(x, 2)
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
        if index in COMPARED_AFTER:
            found.append(x)
    return found


def perceptual(x, y, network):
    """Zhang et al. 2018, equation 1: one number for each pair."""
    convolutions, heads = network
    distance = 0
    for a, b, head in zip(vgg_features(x, convolutions), vgg_features(y, convolutions), heads):
        a, b = (f / (f.norm(dim=1, keepdim=True) + 1e-10) for f in (a, b))
        distance = distance + (head * (a - b) ** 2).sum(dim=1).mean(dim=(1, 2))
    return distance


LAYERS, WIDTH = 3, 8


def discriminator_weights():
    weights = {
        "first.weight": numbers(400, (WIDTH, 3, 4, 4), 0.3),
        "first.bias": numbers(401, (WIDTH,), 0.1),
    }
    for layer in range(LAYERS):
        inputs, outputs = WIDTH << layer, WIDTH << layer + 1
        weights[f"middle.{layer}.conv.weight"] = numbers(410 + layer, (outputs, inputs, 4, 4), 0.2)
        weights[f"middle.{layer}.scale"] = 1 + numbers(420 + layer, (outputs,), 0.5)
        weights[f"middle.{layer}.shift"] = numbers(430 + layer, (outputs,), 0.5)
    weights["last.weight"] = numbers(440, (1, WIDTH << LAYERS, 4, 4), 0.2)
    weights["last.bias"] = numbers(441, (1,), 0.1)
    return weights


def discriminate(pixels, w):
    """Isola et al. 2017, with the batch's own statistics as in training."""
    x = F.leaky_relu(F.conv2d(pixels, w["first.weight"], w["first.bias"], stride=2, padding=1), 0.2)
    for layer in range(LAYERS):
        stride = 2 if layer < LAYERS - 1 else 1
        x = F.conv2d(x, w[f"middle.{layer}.conv.weight"], stride=stride, padding=1)
        scale, shift = w[f"middle.{layer}.scale"], w[f"middle.{layer}.shift"]
        x = F.leaky_relu(F.batch_norm(x, None, None, scale, shift, training=True), 0.2)
    return F.conv2d(x, w["last.weight"], w["last.bias"], padding=1)


def record_contrastive(out):
    for name in ("sigmoid", "softmax"):
        images, texts = (leaf(F.normalize(numbers(salt, (6, 8)), dim=1)) for salt in (1, 2))
        scale, bias = leaf(torch.tensor([math.log(10)])), leaf(torch.tensor([-2.0]))
        logits = scale.exp() * images @ texts.T
        if name == "sigmoid":
            matches = torch.eye(6)
            loss = F.binary_cross_entropy_with_logits(logits + bias, matches, reduction="sum") / 6
            loss.backward()
            out["sigmoid.bias_grad"] = bias.grad
        else:
            own = torch.arange(6)
            loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
            loss.backward()
        out[f"{name}.loss"] = loss.detach().reshape(1)
        for key, tensor in (("images", images), ("texts", texts), ("scale", scale)):
            out[f"{name}.{key}_grad"] = tensor.grad


def record_perceptual(out):
    x, y = leaf(numbers(10, (2, 3, 32, 32))), numbers(11, (2, 3, 32, 32))
    distance = perceptual(x, y, vgg(16))
    distance.mean().backward()
    out["lpips.distance"] = distance.detach()
    out["lpips.x_grad"] = x.grad


def record_adversarial(out):
    weights = {name: leaf(tensor) for name, tensor in discriminator_weights().items()}
    real, drawn = numbers(10, (2, 3, 32, 32)), leaf(numbers(11, (2, 3, 32, 32)))
    out["discriminator.real"] = discriminate(real, weights).detach()
    hinge = 0.5 * (
        torch.clamp(1 - discriminate(real, weights), min=0).mean()
        + torch.clamp(1 + discriminate(drawn.detach(), weights), min=0).mean()
    )
    hinge.backward()
    out["discriminator.loss"] = hinge.detach().reshape(1)
    recorded = "first.weight first.bias middle.0.conv.weight middle.1.scale middle.2.shift last.weight"
    for name in recorded.split():
        out[f"discriminator.{name}_grad"] = weights[name].grad

    fools = -discriminate(drawn, discriminator_weights()).mean()
    fools.backward()
    out["decoder.loss"] = fools.detach().reshape(1)
    out["decoder.drawn_grad"] = drawn.grad


def record_adaptive(out):
    """Esser et al. 2021, equation 7, with everything written as one graph."""
    fixed, network = discriminator_weights(), vgg(16)
    pixels, features = numbers(10, (2, 3, 32, 32)), leaf(numbers(20, (2, 4, 32, 32)))
    weight, bias = leaf(numbers(21, (3, 4, 3, 3), 0.3)), leaf(numbers(22, (3,), 0.1))
    drawn = F.conv2d(features, weight, bias, padding=1)
    alike = 8 * (drawn - pixels).abs().mean() + perceptual(drawn, pixels, network).mean()
    fools = -discriminate(drawn, fixed).mean()
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (alike, fools)]
    adaptive = torch.clamp(norms[0] / (norms[1] + 1e-4), 0, 1e4).detach()
    total = alike + adaptive * 0.75 * fools
    total.backward()
    out["adaptive.weight"] = adaptive.reshape(1)
    out["adaptive.alike"] = alike.detach().reshape(1)
    out["adaptive.fools"] = fools.detach().reshape(1)
    out["adaptive.features_grad"] = features.grad
    out["adaptive.conv_grad"] = weight.grad


def compare_with_package():
    try:
        import lpips
    except ImportError:
        print("the package lpips is not installed: not compared with it")
        return
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False)
    convolutions, heads = vgg(1)
    with torch.no_grad():
        modules = [m for m in theirs.net.modules() if isinstance(m, torch.nn.Conv2d)]
        for module, (weight, bias) in zip(modules, convolutions, strict=True):
            module.weight.copy_(weight)
            module.bias.copy_(bias)
        for lin, head in zip(theirs.lins, heads):
            lin.model[-1].weight.copy_(head)
        x, y = numbers(10, (2, 3, 64, 64)), numbers(11, (2, 3, 64, 64))
        ours, others = perceptual(x, y, (convolutions, heads)), theirs(x, y).flatten()
    print("LPIPS here", ours.tolist(), "package", others.tolist())
    assert torch.allclose(ours, others, rtol=1e-5)


def main():
    out = {}
    record_contrastive(out)
    record_perceptual(out)
    record_adversarial(out)
    record_adaptive(out)
    compare_with_package()
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, OUTPUT)
    print(OUTPUT, OUTPUT.stat().st_size, "bytes")
    for name, tensor in out.items():
        print(f"{name:40} {list(tensor.shape)!s:18} norm {tensor.norm():.6g}")


if __name__ == "__main__":
    main()
