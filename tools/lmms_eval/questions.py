"""Writes questions.jsonl from what `vila-u data nano` wrote: python questions.py FOLDER COUNT"""

import json
import pathlib
import sys

folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
questions = []
for line in (folder / "nano.jsonl").read_text().splitlines():
    record = json.loads(line)
    turns = record["conversations"]
    if record["id"].endswith("-ask"):
        for question, answer in zip(turns[::2], turns[1::2]):
            text = question["value"].removeprefix("<image>\n")
            questions.append({"image": str(folder.resolve() / record["image"]), "question": text, "answer": answer["value"]})
pathlib.Path("questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions[:count]))
