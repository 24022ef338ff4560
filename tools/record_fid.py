"""Computes FID, its features and what comes before them with the packages that define them, and records the numbers.

    peers/bin/pip install torch torchvision numpy scipy safetensors pillow torch-fidelity pytorch-fid clean-fid
    peers/bin/python tools/record_fid.py        # writes crates/vila-u/tests/golden/fid/

torch-fidelity 0.4.0, pytorch-fid 0.3.0 and clean-fid 0.1.35 made what is there. Pictures, the network's weights and given
features follow from formulas that tests/golden/fid.rs has too, so that only results are recorded; the weights are random,
at the network's full size. clean-fid's network is a TorchScript file of fixed weights: of it, its resizing, its statistics
and its distance are recorded.
"""

import math
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms.functional import to_tensor

import cleanfid.fid
import cleanfid.resize
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch_fidelity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from record_losses import numbers

FOLDER = Path(__file__).parent.parent / "crates/vila-u/tests/golden/fid"
LAYERS = ["64", "192", "768", "2048"]
# Width and height; the last is narrowed and lowered in another order than the others.
RESIZED = [(64, 48), (299, 299), (400, 310), (31, 700)]
SEEN = [(64, 64), (200, 150), (310, 320)]
SET = 8


def salt(key):
    """FNV-1a."""
    value = 0x811C9DC5
    for byte in key.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def picture(seed, width, height):
    """Waves of other lengths and directions for each seed and channel, in tiles, as uint8 [height, width, 3]."""
    y, x, c = numpy.mgrid[0:height, 0:width, 0:3]
    phase = x * (3 + (5 * seed + 7 * c) % 11) + y * (2 + (3 * seed + 5 * c) % 13) + 37 * seed + 61 * c
    wave = numpy.abs(phase % 510 - 255)
    turned = (x // 8 + y // 8 + seed) % 3 == 0
    return numpy.where(turned, 255 - wave, wave).astype(numpy.uint8)


def weights(shapes):
    state = {}
    for name, shape in shapes.items():
        key = f"{name}.conv.weight"
        state[key] = numbers(salt(key), shape, math.sqrt(6 / math.prod(shape[1:])))
        for tensor, middle, scale in [
            ("weight", 1, 0.1),
            ("bias", 0, 0.1),
            ("running_mean", 0, 0.1),
            ("running_var", 1, 0.5),
        ]:
            key = f"{name}.bn.{tensor}"
            state[key] = middle + numbers(salt(key), shape[:1], scale)
    state["fc.weight"] = numbers(salt("fc.weight"), (1008, 2048), 0.1)
    state["fc.bias"] = numbers(salt("fc.bias"), (1008,), 0.1)
    return state


def shapes_of_the_network():
    none = mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict")
    loaded = mock.patch("torch_fidelity.feature_extractor_inceptionv3.torch.load")
    with none, loaded:
        network = FeatureExtractorInceptionV3("inception", LAYERS, feature_extractor_weights_path="none")
    state = network.state_dict()
    return {key.removesuffix(".conv.weight"): tuple(value.shape) for key, value in state.items() if ".conv." in key}


def record_resizing(out):
    """Every twelfth pixel of every twelfth row, from the fifth on."""
    clean = cleanfid.resize.build_resizer("clean")
    for seed, (width, height) in enumerate(RESIZED):
        pixels = picture(seed, width, height)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        tensorflow = interpolate_bilinear_2d_like_tensorflow1x(tensor.float(), size=(299, 299), align_corners=False)
        torch_way = F.interpolate(to_tensor(pixels)[None], size=(299, 299), mode="bilinear", align_corners=False)
        for name, resized in [
            ("torch-fidelity", (tensorflow[0].numpy() - 128) / 128),
            ("pytorch-fid", 2 * torch_way[0].numpy() - 1),
            ("clean-fid", (clean(pixels).transpose(2, 0, 1) - 128) / 128),
        ]:
            out[f"resized.{name}.{seed}"] = resized[:, 5::12, 5::12].astype(numpy.float32)


def record_features(out, theirs, pytorch):
    for seed, (width, height) in enumerate(SEEN):
        pixels = picture(seed, width, height)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        with torch.no_grad():
            found = theirs(tensor)
            others = pytorch(to_tensor(pixels)[None])
        for layer, features in zip([*LAYERS, "logits"], found, strict=True):
            out[f"features.torch-fidelity.{seed}.{layer}"] = features[0].numpy()
        for layer, features in zip(LAYERS, others, strict=True):
            out[f"features.pytorch-fid.{seed}.{layer}"] = features[0].mean((1, 2)).numpy()


def record_sets(out, state):
    """FID of two folders, by the packages' own commands."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        weights_file = folder / "weights.pth"
        torch.save(state, weights_file)
        sides = [folder / "first", folder / "second"]
        for index, side in enumerate(sides):
            side.mkdir()
            for at in range(SET):
                Image.fromarray(picture(index * SET + at, 64, 64)).save(side / f"{at}.png")
        for layer in LAYERS:
            metrics = torch_fidelity.calculate_metrics(
                input1=str(sides[0]), input2=str(sides[1]), fid=True, cuda=False, verbose=False, cache=False,
                feature_extractor_weights_path=str(weights_file), feature_layer_fid=layer, batch_size=4,
            )
            theirs = metrics["frechet_inception_distance"]
            paths = [str(side) for side in sides]
            others = pytorch_fid.fid_score.calculate_fid_given_paths(paths, 4, "cpu", int(layer), num_workers=0)
            print(f"layer {layer}: torch-fidelity {theirs:.6f}, pytorch-fid {others:.6f}", flush=True)
            out[f"fid.torch-fidelity.{layer}"] = numpy.array([theirs])
            out[f"fid.pytorch-fid.{layer}"] = numpy.array([float(others)])


def record_given(out):
    """Distances of features that are given, and the statistics of the first of them as a file."""
    first, second = numbers(500, (200, 24)), numbers(501, (180, 24), 1.5) + 0.1
    second[:, 1:] += 0.5 * second[:, :-1]
    statistics = [fid_features_to_statistics(features) for features in (first, second)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    means = [features.double().numpy().mean(0) for features in (first, second)]
    covariances = [numpy.cov(features.double().numpy(), rowvar=False) for features in (first, second)]
    others = pytorch_fid.fid_score.calculate_frechet_distance(means[0], covariances[0], means[1], covariances[1])
    clean = cleanfid.fid.fid_from_feats(first.numpy(), second.numpy())
    print("given features:", theirs, others, clean)
    out["given.torch-fidelity"] = numpy.array([theirs])
    out["given.pytorch-fid"] = numpy.array([float(others)])
    out["given.clean-fid"] = numpy.array([float(clean)])
    # As clean-fid has it, the mean is f32.
    numpy.savez_compressed(FOLDER / "statistics.npz", mu=first.numpy().mean(0), sigma=covariances[0])


def record_inception_score(out):
    logits = numbers(510, (60, 12), 4)
    parts = torch.cat([logits[part::10] for part in range(10)])
    score = isc_features_to_metric(parts, splits=10, shuffle=False)
    out["inception-score"] = numpy.array([score["inception_score_mean"], score["inception_score_std"]])


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        # The same weights as a file for the command.
        torch.save(weights(shapes_of_the_network()), sys.argv[1])
        return
    out = {}
    shapes = shapes_of_the_network()
    state = weights(shapes)
    for name, shape in shapes.items():
        out[f"shape.{name}"] = numpy.array(shape, dtype=numpy.int64)
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        theirs = FeatureExtractorInceptionV3(
            "inception", [*LAYERS, "logits_unbiased"], feature_extractor_weights_path=file.name
        )
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: state
    pytorch = pytorch_fid.inception.InceptionV3([0, 1, 2, 3]).eval()
    record_resizing(out)
    record_features(out, theirs, pytorch)
    record_given(out)
    record_inception_score(out)
    record_sets(out, state)
    out = {name: numpy.ascontiguousarray(values) for name, values in out.items()}
    out = {name: values.astype(numpy.float32) if values.dtype == numpy.float64 else values for name, values in out.items()}
    save_file(out, FOLDER / "recorded.safetensors")
    print(*[(path.name, path.stat().st_size) for path in FOLDER.iterdir()])


if __name__ == "__main__":
    main()
