"""Two replicas behind nginx with deploy/nginx.conf: the sticky rule, its prefix caches, and the end of one of them."""

import concurrent.futures
import grp
import itertools
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import threading
import time

import openai
import pytest
import requests
from support import about, data_url, until

CONF = pathlib.Path(__file__).parents[4] / "deploy/nginx.conf"
ANSWERED = 'vila_u_requests_total{route="/v1/chat/completions",status="200"}'

NGINX = shutil.which("nginx")

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx")


@pytest.fixture
def replicas(start):
    return [start("--drain", "60s"), start("--drain", "60s")]


@pytest.fixture
def nginx(replicas, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    conf = CONF.read_text()
    addresses = ["127.0.0.1:8080", "127.0.0.1:8001", "127.0.0.1:8002"]
    for address, own in zip(addresses, [f"127.0.0.1:{port}", *(replica.url[7:] for replica in replicas)]):
        assert conf.count(address) == 1
        conf = conf.replace(address, own)
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    folders = [f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; user {user} {group}; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ access_log {tmp_path}/access.log; {' '.join(folders)}\n{conf}}}\n"
    )
    process = subprocess.Popen([NGINX, "-e", tmp_path / "error.log", "-c", tmp_path / "nginx.conf"])

    def ready():
        assert process.poll() is None, (tmp_path / "error.log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    until(ready)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


def answered(replica):
    try:
        return replica.metric(ANSWERED)
    except AssertionError:
        return 0


def ask(url, heart, key="none", **headers):
    client = openai.OpenAI(base_url=url + "/v1", api_key=key, default_headers=headers, max_retries=0, timeout=60)
    return client.chat.completions.create(model="nano", messages=about(data_url(heart)), temperature=0)


@pytest.mark.parametrize("name", ["session", "key"])
def test_a_client_stays_with_its_replica(replicas, nginx, heart, name):
    def of(number):
        if name == "key":
            return ask(nginx, heart, key=f"key-{number}")
        return ask(nginx, heart, key=f"key-{time.monotonic()}", **{"X-Session-Id": f"session {number}"})

    seen = set()
    for number in range(12):
        before = [answered(replica) for replica in replicas]
        cached = [of(number).usage.prompt_tokens_details.cached_tokens for _ in range(3)]
        counts = [answered(replica) - old for replica, old in zip(replicas, before)]
        assert sorted(counts) == [0, 3], f"a client was sent to both: {counts}"
        assert min(cached[1:]) > 64, "the prompt was read again"
        seen.add(counts.index(3))
    assert seen == {0, 1}, "all clients are on one replica"


def test_a_replica_that_ends_loses_nothing(replicas, nginx, heart):
    stop = threading.Event()
    numbers = itertools.count()

    def client(_):
        done = 0
        while not stop.is_set():
            number = next(numbers)
            if number % 3:
                assert ask(nginx, heart, **{"X-Session-Id": str(number)}).choices[0].message.content
            else:
                own = openai.OpenAI(base_url=nginx + "/v1", api_key=str(number), max_retries=0, timeout=60)
                events = own.images.generate(model="nano", prompt="a cat", n=2, stream=True)
                assert sum(event.type == "image_generation.completed" for event in events) == 2
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(client, number) for number in range(8)]
        time.sleep(2)
        replicas[0].process.terminate()
        assert replicas[0].process.wait(60) == 0
        time.sleep(2)
        stop.set()
        done = sum(one.result() for one in clients)
    assert "were cut off" not in replicas[0].log.read_text()
    assert answered(replicas[1]) > 0 and done > 20
    print(f"{done} requests, none lost")


def test_addresses_of_files_are_those_of_the_proxy(nginx, heart):
    client = openai.OpenAI(base_url=nginx + "/v1", api_key="none", max_retries=0, default_headers={"X-Session-Id": "me"})
    url = client.images.generate(model="nano", prompt="a cat", response_format="url").data[0].url
    assert url.startswith(nginx)
    assert requests.get(url, headers={"X-Session-Id": "me"}, timeout=30).content.startswith(b"\x89PNG")
    assert requests.get(nginx + "/metrics", timeout=30).status_code == 404
