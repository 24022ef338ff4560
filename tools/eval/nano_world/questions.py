"""Writes questions about what `vila-u data nano` wrote, for lmms-eval and `vila-u eval answers` questions.jsonl, for VLMEvalKit
nano_world.tsv with choices: python questions.py FOLDER COUNT"""

import base64
import csv
import json
import pathlib
import sys

CHOICES = "ABCD"


def questions(folder):
    """From the place of FOLDER on, as paths in questions.jsonl are."""
    for line in (folder / "nano.jsonl").read_text().splitlines():
        record = json.loads(line)
        turns = record["conversations"]
        if record["id"].endswith("-ask"):
            for question, answer in zip(turns[::2], turns[1::2]):
                text = question["value"].removeprefix("<image>\n")
                yield {"image": str(folder / record["image"]), "question": text, "answer": answer["value"]}


def choices(questions):
    """Those that have enough other answers in the set, each among three of these."""
    answers = {}
    for question in questions:
        answers.setdefault(question["question"], set()).add(question["answer"])
    for index, question in enumerate(questions):
        others = sorted(answers[question["question"]] - {question["answer"]})
        if len(others) >= len(CHOICES) - 1:
            at = index % len(CHOICES)
            offered = others[: len(CHOICES) - 1]
            offered.insert(at, question["answer"])
            image = base64.b64encode(pathlib.Path(question["image"]).read_bytes()).decode()
            yield [index, question["question"], *offered, CHOICES[at], image]


asked = list(questions(pathlib.Path(sys.argv[1])))[: int(sys.argv[2])]
pathlib.Path("questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in asked))
with open("nano_world.tsv", "w", newline="") as file:
    table = csv.writer(file, delimiter="\t")
    table.writerow(["index", "question", *CHOICES, "answer", "image"])
    table.writerows(choices(asked))
