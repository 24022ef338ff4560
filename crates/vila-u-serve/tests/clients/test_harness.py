"""tools/eval: what it makes of a harness's files, which count a failed request as a reply."""

import json
import pathlib
import subprocess
import sys

import pytest

TOOLS = pathlib.Path(__file__).parents[4] / "tools/eval"
sys.path.insert(0, str(TOOLS))

import run_lmms_eval  # noqa: E402
import run_vlmevalkit  # noqa: E402

SCRIPT = '''
def annotate(question, answer, pred):
    ask(messages=[
        {"role": "system", "content": "Grade " "this."},
        {"role": "user", "content": f"Q: {question}\\n" f"A: {answer}\\nP: {pred}\\n" "as {'pred': 'yes'}"},
    ])
'''


@pytest.mark.parametrize("reply, status", [("yes", 0), ("[LMMS_EVAL_REQUEST_FAILED after 5 retries] timed out", 1)])
def test_lmms_eval(tmp_path, reply, status):
    folder = tmp_path / "vila-u"
    folder.mkdir()
    (folder / "1_results.json").write_text(json.dumps({"results": {"pope": {"alias": "pope", "accuracy,none": 0.5}}}))
    sample = {"doc_id": 0, "filtered_resps": [reply]}
    (folder / "1_samples_pope.jsonl").write_text(json.dumps(sample) + "\n")
    assert run_lmms_eval.check(tmp_path, 0) == status
    # What lay there before is no result.
    assert run_lmms_eval.check(tmp_path, 1e12) == 1


@pytest.mark.parametrize("reply, status", [("A", 0), ("Failed to obtain answer via API. ", 1)])
def test_vlmevalkit(tmp_path, reply, status):
    folder = tmp_path / "vila-u"
    folder.mkdir()
    result = {"status": "done", "metrics": {"Overall": 0.5}}
    (folder / "status.json").write_text(json.dumps({"datasets": {"POPE": result}}))
    (folder / "vila-u_POPE.tsv").write_text(f"index\tprediction\n1\t{reply}\n")
    assert run_vlmevalkit.check(tmp_path, ["POPE"], 0) == status
    # A set without a result, and results of before.
    assert run_vlmevalkit.check(tmp_path, ["POPE", "GQA"], 0) == 1
    assert run_vlmevalkit.check(tmp_path, ["POPE"], 1e12) == 1


def test_judge_prompt(tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(TOOLS / "judge_prompt.py"), str(script)]
    messages = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert messages[0] == {"role": "system", "content": "Grade this."}
    assert messages[1]["content"] == "Q: {question}\nA: {answer}\nP: {prediction}\nas {'pred': 'yes'}"
