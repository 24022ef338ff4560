"""What the tests share: the server's process, pictures, and what is asked about them."""

import base64
import io
import os
import re
import signal
import subprocess
import time

import requests
from PIL import Image


class Server:
    def __init__(self, binary, log, options=(), environment=None):
        self.log = log
        with open(log, "w") as stderr:
            command = [binary, "serve", "--port", "0", *options]
            self.process = subprocess.Popen(command, stderr=stderr, env={**os.environ, **(environment or {})})
        found = until(lambda: re.search(r"listening on (http://\S+)", log.read_text()) or self.ended(), 60)
        self.url = found[1]

    def ended(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended at once: {self.log.read_text()}")

    def metric(self, name, headers=None):
        for line in requests.get(f"{self.url}/metrics", headers=headers, timeout=30).text.splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
        raise AssertionError(f"/metrics has no {name}")

    def idle(self):
        return self.metric("vila_u_requests_running") == 0 and self.metric("vila_u_requests_unfinished") == 0

    def stop(self):
        """Ends it as a service manager does. The exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def until(condition, seconds=10):
    """Waits for a condition, and returns what it gave."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"still not so after {seconds} seconds"
        time.sleep(0.02)
    return value


def picture(base64_text):
    """The picture of a base64 text; its pixels are decoded."""
    image = Image.open(io.BytesIO(base64.b64decode(base64_text)))
    image.load()
    return image


def data_url(image, kind="PNG"):
    if isinstance(image, str):
        return f"data:image/png;base64,{image}"
    held = io.BytesIO()
    image.save(held, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"


def about(*urls, text="What is in this picture?"):
    """A question about pictures, which stand before it."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]
