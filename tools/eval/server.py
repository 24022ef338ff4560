"""`vila-u serve` for as long as a harness asks it."""

import argparse
import contextlib
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

WAIT = 600  # seconds until the model of --model is loaded


@contextlib.contextmanager
def serve(program, options):
    """The address of a server of its own with these options of `vila-u`; it is ended afterwards."""
    program = shutil.which(program) or sys.exit(f"{program} is not there: name the program with --program")
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "serve.log")
        with log.open("w") as file:
            server = subprocess.Popen([program, "serve", "--port", "0", *options], stderr=file)
        try:
            yield address(server, log)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def address(server, log):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if line.startswith("listening on "):
                return line.removeprefix("listening on ").strip()
        if server.poll() is not None:
            sys.exit(f"the server ended: {log.read_text().strip()}")
        time.sleep(0.1)
    sys.exit("the server did not start")


def add_arguments(parser):
    """Options of every harness. What stands behind -- is for `vila-u`."""
    parser.add_argument("--url", help="of a server that runs already, as http://127.0.0.1:8000 [default: starts one]")
    parser.add_argument("--program", default="target/release/vila-u", help="[%(default)s]")
    parser.epilog = "Behind --: options of vila-u serve, such as --model, --dtype, --media-path."


def split(arguments):
    """What argparse is to parse, and where it puts what stands behind --."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[1:at], argparse.Namespace(options=arguments[at + 1 :])


def start(args):
    """The server that the options ask for, as a context."""
    return contextlib.nullcontext(args.url.rstrip("/")) if args.url else serve(args.program, args.options)
