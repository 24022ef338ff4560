"""Benchmarks of VLMEvalKit, answered by `vila-u serve`.

    python tools/eval/run_vlmevalkit.py MME POPE SEEDBench_IMG -- --model hf:mit-han-lab/vila-u-7b-256

in an environment with VLMEvalKit (pip install ms-vlmeval==0.0.20, or its repository). Ends with an error when a question was
not answered: VLMEvalKit itself scores its message about a failed request as a reply.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import time

import server

MODEL = "vila-u"
FAILED = "Failed to obtain answer via API"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="names of VLMEvalKit's data sets")
    parser.add_argument("--output", default="results/vlmevalkit", help="the folder for its results [%(default)s]")
    parser.add_argument("--limit", type=int, help="so many questions of each set")
    parser.add_argument("--at-once", type=int, default=64, help="requests at the same time [%(default)s]")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for an answer, waiting included [%(default)s]")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest reply [%(default)s]")
    server.add_arguments(parser)
    args = parser.parse_args(*server.split(sys.argv))
    started = time.time()
    with server.start(args) as url:
        # Predictions that can be read here.
        environment = {**os.environ, "PRED_FORMAT": "tsv"}
        subprocess.run([sys.executable, "-m", "vlmeval", *options(args, url)], env=environment, check=True)
    sys.exit(check(pathlib.Path(args.output), args.data, started))


def options(args, url):
    options = ["--data", *args.data, "--model", MODEL, "--base-url", f"{url}/v1", "--work-dir", args.output]
    options += ["--api-nproc", str(args.at_once), "--timeout", str(args.timeout), "--max-tokens", str(args.max_tokens)]
    return options + (["--limit", str(args.limit)] if args.limit else [])


def check(output, data, started):
    """1 if a set has no result of this run, or one in which messages about failed requests count as replies."""
    folder = output / MODEL
    status = folder / "status.json"
    new = status.exists() and status.stat().st_mtime >= started
    sets = json.loads(status.read_text())["datasets"] if new else {}
    bad = 0
    for name in data:
        result = sets.get(name, {})
        predictions = folder / f"{MODEL}_{name}.tsv"
        replies = []
        if result and predictions.exists():
            with predictions.open(newline="") as file:
                replies = [row["prediction"] for row in csv.DictReader(file, delimiter="\t")]
        failed = sum(FAILED in reply for reply in replies)
        for metric, value in result.get("metrics", {}).items():
            print(f"{name}  {metric}  {value}")
        print(f"{name}: {len(replies)} questions, {failed} of them not answered", file=sys.stderr)
        if failed or not replies or "metrics" not in result:
            print(f"{name}: not to be used; {result.get('error_message', 'see above')}", file=sys.stderr)
            bad = 1
    return bad


if __name__ == "__main__":
    main()
