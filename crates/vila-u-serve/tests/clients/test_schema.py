"""Requests made from the server's own description: none may make it fail, and every answer is as described."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

SECONDS = int(os.environ.get("SCHEMATHESIS_SECONDS", 75))


def test_the_description_is_kept(start, tmp_path):
    server = start()
    command = [
        pathlib.Path(sys.executable).with_name("schemathesis"),
        "run",
        server.url + "/openapi.json",
        f"--max-time={SECONDS}",
        "--seed=1",
        "--workers=2",
        "--request-timeout=60",
        "--generation-database=none",
        "--phases=coverage,fuzzing",
        # What a field may hold is more than a schema says (pictures in base64, a size in words), and much that it does
        # not say is read all the same: numbers as clients spell them.
        "--exclude-checks=positive_data_acceptance,negative_data_rejection",
        "--continue-on-failure",
        "--warnings=off",
        "--no-color",
    ]
    tests = str(pathlib.Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": tests, "SCHEMATHESIS_HOOKS": "hooks"}
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    print(ran.stdout[-20000:], ran.stderr[-2000:])
    if ran.returncode:
        pytest.fail("the server did not keep to its description: see above")
    log = server.log.read_text()
    assert '"status":5' not in log
    for path in ("encode", "reconstruct", "classify", "embeddings", "chat/completions", "images/generations"):
        assert re.search(f'"path":"/v1/{path}","status":200', log), f"nothing was valid for {path}"
