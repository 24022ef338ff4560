"""A running `vila-u serve`, and the clients that are tried on it."""

import os

import openai
import pytest
from support import Server


def pytest_configure():
    if "VILA_U" not in os.environ:
        pytest.exit("VILA_U is not set: run tools/check_serve, or give it the path of the program")


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts servers of their own options; those that still run are stopped at the end."""
    running = []

    def start(*options, **environment):
        log = tmp_path_factory.mktemp("serve") / "stderr.log"
        running.append(Server(os.environ["VILA_U"], log, options, environment))
        return running[-1]

    yield start
    for server in running:
        assert server.stop() == 0, f"it ended badly: {server.log.read_text()[-2000:]}"
        assert "panicked" not in server.log.read_text()


@pytest.fixture(scope="session")
def server(start):
    return start()


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def heart(client):
    """A picture of a red heart in base64, a PNG."""
    images = client.images.generate(model="nano", prompt="a red heart on a blue background", extra_body={"seed": 1})
    return images.data[0].b64_json
