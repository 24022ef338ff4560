"""Measures zero-shot accuracy with open_clip's functions, to be held against `vila-u eval zero-shot` on the same files.

    peers/bin/pip install torch torchvision transformers sentencepiece open_clip_torch 'numpy<2.4'
    vila-u --model CHECKPOINT eval zero-shot --data DATA --classes CLASSES --templates TEMPLATES -o RESULT
    peers/bin/python tools/check_zero_shot.py CHECKPOINT DATA CLASSES TEMPLATES RESULT

CHECKPOINT is a folder with its SigLIP configuration and `spiece.model` (models/nano, or what `vila-u export` writes), DATA has a
folder for each class, CLASSES and TEMPLATES have one a line. Prints how many are right, and how many pictures both put
into the same class.
"""

import argparse
import json
from pathlib import Path

import torch
from open_clip import build_zero_shot_classifier
from open_clip_train.zero_shot import accuracy
from torchvision.datasets import ImageFolder
from transformers import SiglipTokenizer

from record_zero_shot import Tower


def lines(path):
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    for name in ["checkpoint", "data", "classes", "templates", "result"]:
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    tower = Tower(arguments.checkpoint)
    spiece = next(arguments.checkpoint.glob("**/spiece.model"))
    tokenizer = SiglipTokenizer(vocab_file=str(spiece))
    length = tower.siglip.config.text_config.max_position_embeddings

    def token_ids(texts):
        ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True)["input_ids"]
        return torch.tensor(ids)

    classes = lines(arguments.classes)
    templates = [template.replace("{c}", "{}") for template in lines(arguments.templates)]
    classifier = build_zero_shot_classifier(tower, token_ids, classes, templates)
    pictures = ImageFolder(arguments.data, transform=tower.pixels)
    right, predicted = {}, []
    for pixels, targets in torch.utils.data.DataLoader(pictures, batch_size=64):
        for name, embeds in tower.image_embeds(pixels).items():
            logits = 100.0 * embeds @ classifier
            counts = accuracy(logits, targets, topk=(1, 5))
            right[name] = [a + b for a, b in zip(right.get(name, [0, 0]), counts)]
            if name == tower.depth:
                predicted += logits.argmax(1).tolist()
    for name, (top1, top5) in right.items():
        print(f"{name}: top-1 {top1 / len(pictures):.4f}, top-5 {top5 / len(pictures):.4f}, n = {len(pictures)}")
    ours = map(json.loads, lines(arguments.result / "samples.jsonl"))
    ours = {sample["id"]: sample["predicted"] for sample in ours}
    ids = [Path(path).relative_to(arguments.data).as_posix() for path, _ in pictures.samples]
    same = sum(ours.get(id) == classes[label] for id, label in zip(ids, predicted))
    print(f"the same class: {same} of {len(pictures)}")


if __name__ == "__main__":
    main()
