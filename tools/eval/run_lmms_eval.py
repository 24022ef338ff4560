"""Benchmarks of lmms-eval, answered by `vila-u serve`.

    python tools/eval/run_lmms_eval.py gqa,pope,mme -- --model hf:mit-han-lab/vila-u-7b-256

in an environment with lmms-eval (pip install lmms-eval==0.7.3 'filelock<4'). Ends with an error when a question was not
answered: lmms-eval itself scores a failed request as a reply.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import server

FAILED = ["[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="names of lmms-eval's tasks, separated by commas")
    parser.add_argument("--output", default="results/lmms-eval", help="the folder for its results [%(default)s]")
    parser.add_argument("--limit", type=int, help="so many questions of each task")
    parser.add_argument("--include-path", help="a folder with further tasks")
    parser.add_argument("--client", choices=["openai", "async_openai"], default="openai", help="of lmms-eval [%(default)s]")
    parser.add_argument("--at-once", type=int, default=64, help="requests at the same time [%(default)s]")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for an answer, waiting included [%(default)s]")
    server.add_arguments(parser)
    args = parser.parse_args(*server.split(sys.argv))
    output = pathlib.Path(args.output)
    started = time.time()
    with server.start(args) as url:
        subprocess.run([sys.executable, "-m", "lmms_eval", *options(args, url)], env=environment(), check=True)
    sys.exit(check(output, started))


def options(args, url):
    at_once = "num_concurrent" if args.client == "openai" else "num_cpus"
    model = {"model_version": "vila-u", "base_url": f"{url}/v1", "timeout": args.timeout, at_once: args.at_once}
    if args.client == "openai":
        # The server chooses the frames of a video, as the model was asked in its evaluation; it reads files of --media-path.
        model["pass_video_url"] = True
    options = ["--model", args.client, "--model_args", ",".join(f"{name}={value}" for name, value in model.items())]
    options += ["--tasks", args.tasks, "--output_path", args.output, "--log_samples"]
    for name, value in [("--limit", args.limit), ("--include_path", args.include_path)]:
        options += [name, str(value)] if value is not None else []
    return options


def environment():
    # A key is wanted by its client whatever the server wants.
    return {"OPENAI_API_KEY": "none", **os.environ}


def check(output, started):
    """Prints the results of this run; 1 if there are none, or replies are missing in its samples."""
    new = [path for path in sorted(output.rglob("*.json*")) if path.stat().st_mtime >= started]
    results = [path for path in new if path.name.endswith("results.json")]
    samples = [path for path in new if "_samples_" in path.name]
    for path in results:
        for task, metrics in json.loads(path.read_text())["results"].items():
            for name, value in metrics.items():
                if isinstance(value, float):
                    print(f"{task}  {name}  {value:.4f}")
    asked = failed = 0
    for path in samples:
        for line in path.read_text().splitlines():
            asked += 1
            failed += any(mark in line for mark in FAILED)
    print(f"{asked} questions, {failed} of them not answered", file=sys.stderr)
    if not results or not asked or failed:
        print("not to be used: the harness has no results, or counts failed requests as replies", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
