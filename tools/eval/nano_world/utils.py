"""How a record of questions.jsonl becomes a question: named in nano_world.yaml."""

from PIL import Image


def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]
