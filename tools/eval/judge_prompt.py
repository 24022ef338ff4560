"""The messages that a published script sends to a judge, for `vila-u eval video-qa --judge-prompt`.

    python tools/eval/judge_prompt.py evaluate_activitynet_qa.py > judge.json

The script is read, not run: its first list `messages=[...]` is taken, and what it puts into the texts becomes {question},
{answer} and {prediction}. Made for quantitative_evaluation/evaluate_activitynet_qa.py of
https://github.com/mbzuai-oryx/Video-ChatGPT, whose words other evaluations share.
"""

import ast
import json
import sys

PLACES = {"question": "{question}", "answer": "{answer}", "pred": "{prediction}"}


def text(node):
    """The words of a string, of an f-string, or of several one after the other."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text, node.values))
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id in PLACES:
        return PLACES[node.value.id]
    raise SystemExit(f"line {node.lineno}: not a text, or with something else in it than {', '.join(PLACES)}")


def messages(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "messages" and isinstance(node.value, ast.List):
            for message in node.value.elts:
                names = [key.value for key in message.keys]
                yield {name: text(value) for name, value in zip(names, message.values)}
            return
    raise SystemExit("there is no messages=[...] in it")


if len(sys.argv) != 2:
    raise SystemExit(__doc__.strip())
with open(sys.argv[1], encoding="utf-8") as file:
    json.dump(list(messages(ast.parse(file.read()))), sys.stdout, indent=2)
print()
