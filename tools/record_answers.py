"""Records how VQA's answers are normalised and scored by lmms-eval, whose processor is EvalAI's:
crates/vila-u/tests/answers/vqa.jsonl.

    python tools/record_answers.py          # in an environment with lmms-eval==0.7.3
"""

import json
import pathlib
import random

from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor as Processor
from lmms_eval.tasks.vqav2.utils import vqav2_process_results

OUT = pathlib.Path(__file__).parents[1] / "crates/vila-u/tests/answers/vqa.jsonl"
WORDS = ["a", "The", "cat", "cats", "red", "Blue", "none", "Zero", "two", "ten", "10", "1,000", "3.5", "no.", "U.S.", "cat's"]
WORDS += ["t-shirt", "red/white", "left-handed", "(yes)", "yes!", "what?", "$5", "50%", "7:30", "a&b", "#1", "x_y", "'tis"]
WORDS += ["é.", "naïve", "\t", "\n", ".5", "...", ",", "-", "/", "dog,cat", "dog, cat", "isn't", "Ive", "Im"]


def normalized(text):
    """As both the official evaluation and lmms-eval do with a reply before they look at the answers."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    processor = Processor()
    return processor.process_digit_article(processor.process_punctuation(text))


def main():
    chance = random.Random(0)
    # somebody'd becomes somebodyd there, as nowhere else.
    contractions = [word for word in Processor.CONTRACTIONS if word != "somebody'd"]
    texts = WORDS + contractions + list(Processor.CONTRACTIONS.values())
    texts += [" ".join(chance.choices(WORDS + contractions, k=chance.randint(2, 4))) for _ in range(300)]
    cases = []
    for _ in range(60):
        few = chance.sample(["red", "Two", "2", "the cat", "dog, cat", "no", "U.S."], k=3)
        answers = chance.choices(few, weights=[6, 3, 1], k=10)
        if len(set(answers)) == 1:
            continue
        reply = chance.choice(few)
        # Without a comma, a question mark or a possessive, for which lmms-eval treats a reply unlike the answers.
        reply = reply.replace(",", "")
        doc = {"question_id": 0, "answers": [{"answer": answer, "answer_id": n} for n, answer in enumerate(answers)]}
        cases.append({"reply": reply, "answers": answers, "accuracy": vqav2_process_results(doc, [reply])["exact_match"]})
    recorded = [{"text": text, "normalized": normalized(text)} for text in texts] + cases
    OUT.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in recorded))


main()
