"""Puts a running `vila-u serve` under load and says what its clients saw.

    vila-u serve --port 8000 &
    python tools/load_serve.py rates http://127.0.0.1:8000
    python tools/load_serve.py soak http://127.0.0.1:8000 --seconds 1800 --connections 1000

`rates`: tokens a second of one client after the other and of 16 at once (images, then text), and the time to the first
token of a short question on an idle server and beside 16 drawings. `soak`: mixed clients, some of which hang up in the
middle or send what is not a request, beside connections that do nothing; counts of every kind of answer, and the
memory of the server from its /metrics.

Only the standard library, only this machine's own addresses.
"""

import argparse
import asyncio
import base64
import collections
import ipaddress
import json
import random
import statistics
import struct
import sys
import time
import urllib.parse
import zlib

CLIENTS = 16


class Server:
    def __init__(self, url, key=None):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port, self.key = parts.hostname, parts.port or 80, key
        host = "127.0.0.1" if self.host == "localhost" else self.host
        if not ipaddress.ip_address(host).is_loopback:
            sys.exit(f"{url} is not this machine: load is for servers that run beside it, such as http://127.0.0.1:8000")

    async def open(self):
        return await asyncio.open_connection(self.host, self.port)

    async def send(self, writer, method, path, body=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{key}Content-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + data)
        await writer.drain()

    async def call(self, method, path, body=None):
        """Status and body of an answer."""
        reader, writer = await self.open()
        try:
            await self.send(writer, method, path, body)
            status, headers = await read_head(reader)
            return status, await read_body(reader, headers)
        finally:
            writer.close()

    async def events(self, path, body):
        """The data of the events of a streamed answer, each with the seconds since the request."""
        started = time.monotonic()
        reader, writer = await self.open()
        try:
            await self.send(writer, "POST", path, body)
            status, headers = await read_head(reader)
            if status != 200:
                raise Refused(status, await read_body(reader, headers))
            async for line in lines(reader, headers):
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    yield time.monotonic() - started, json.loads(line[6:])
        finally:
            writer.close()

    async def metric(self, name):
        _, text = await self.call("GET", "/metrics")
        for line in text.decode().splitlines():
            if line.split("{")[0].split(" ")[0] == name:
                return float(line.split()[-1])
        return float("nan")


class Refused(Exception):
    pass


async def read_head(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest if ": " in line)
    return int(first.split()[1]), headers


async def chunks(reader, headers):
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            yield await reader.readexactly(size)
            await reader.readline()
        return
    left = int(headers.get("content-length", 0))
    if left:
        yield await reader.readexactly(left)


async def read_body(reader, headers):
    return b"".join([chunk async for chunk in chunks(reader, headers)])


async def lines(reader, headers):
    held = b""
    async for chunk in chunks(reader, headers):
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")


def png(size, colour):
    """A square of one colour, as a data URL."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(colour) * size for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def question(text, tokens=32, picture=None, **more):
    content = [{"type": "text", "text": text}]
    if picture:
        content.insert(0, {"type": "image_url", "image_url": {"url": picture}})
    return {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, **more}


async def image_tokens(server, prompt, seed):
    status, body = await server.call("POST", "/v1/images/generations", {"prompt": prompt, "seed": seed})
    if status != 200:
        raise Refused(status, body)
    return json.loads(body)["usage"]["output_tokens"]


async def text_tokens(server, number, tokens):
    # Hot, and with no token that ends it: replies as long as asked for.
    asked = question(f"What is number {number}?", tokens, temperature=2.0, top_p=1.0, seed=number)
    status, body = await server.call("POST", "/v1/chat/completions", asked)
    if status != 200:
        raise Refused(status, body)
    return json.loads(body)["usage"]["completion_tokens"]


async def rate(work, at_once, rounds):
    """Tokens a second of `at_once` clients, each with `rounds` requests one after the other."""

    async def client(index):
        return sum([await work(index * rounds + number) for number in range(rounds)])

    started = time.monotonic()
    tokens = sum(await asyncio.gather(*map(client, range(at_once))))
    return tokens / (time.monotonic() - started)


async def first_token(server, number):
    # A picture that the server has not seen before: what it has read is not read again.
    picture = png(64, [random.randrange(256) for _ in range(3)])
    asked = question(f"What is in picture {number}?", 8, picture, stream=True)
    async for seconds, event in server.events("/v1/chat/completions", asked):
        if event["choices"] and event["choices"][0]["delta"].get("content"):
            return seconds
    return float("nan")


async def rates(server, args):
    def image(number):
        return image_tokens(server, "a red heart on a blue background", number)

    def text(number):
        return text_tokens(server, number, args.tokens)

    results = {}
    for name, work in [("images", image), ("text", text)]:
        await rate(work, 1, 1)
        alone = await rate(work, 1, args.rounds)
        together = await rate(work, CLIENTS, max(1, args.rounds // 4))
        results[name] = {"one_after_the_other": alone, "16_at_once": together, "ratio": together / alone}
    idle = [await first_token(server, number) for number in range(args.rounds)]
    stop = asyncio.Event()

    async def draw(number):
        while not stop.is_set():
            await image(number)
            number += CLIENTS

    drawings = [asyncio.create_task(draw(number)) for number in range(CLIENTS)]
    await asyncio.sleep(1)
    busy = [await first_token(server, 100 + number) for number in range(args.rounds)]
    stop.set()
    await asyncio.gather(*drawings)
    idle, busy = statistics.median(idle), statistics.median(busy)
    results["first_token"] = {"idle": idle, "beside_16_drawings": busy, "ratio": busy / idle}
    print(json.dumps(results, indent=2))


BAD = [
    ("POST", "/v1/chat/completions", b"{"),
    ("POST", "/v1/chat/completions", b"\xff\xfe"),
    ("POST", "/v1/chat/completions", {"messages": []}),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "temperature": -1}),
    ("POST", "/v1/images/generations", {"prompt": "a heart", "n": 0}),
    ("POST", "/v1/embeddings", {"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}),
    ("GET", "/v1/nothing", None),
    ("DELETE", "/v1/models", None),
]


async def soak(server, args):
    counts = collections.Counter()
    ends = time.monotonic() + args.seconds
    memory = [await server.metric("process_resident_memory_bytes")]
    idle = [await server.open() for _ in range(args.connections)]

    async def chat(number):
        picture = png(64, (number % 256, 80, 160)) if number % 2 else None
        last = None
        async for _, event in server.events("/v1/chat/completions", question(f"What is it? {number % 7}", 24, picture, stream=True)):
            if event["choices"]:
                last = event["choices"][0]["finish_reason"] or last
        return f"chat {last}"

    async def hang_up(number):
        path, body = random.choice([
            ("/v1/chat/completions", question("Tell me of it.", 256, stream=True, temperature=2.0)),
            ("/v1/images/generations", {"prompt": "a dog", "stream": True, "n": 2}),
        ])
        left = random.randrange(1, 8)
        async for _ in server.events(path, body):
            left -= 1
            if left == 0:
                break
        return "hung up"

    async def images(number):
        return f"image tokens {await image_tokens(server, f'a red heart {number % 5}', number)}"

    async def plain(number):
        method, path, body = random.choice([
            ("GET", "/health", None),
            ("GET", "/v1/models", None),
            ("POST", "/v1/embeddings", {"input": ["a red heart", "a dog"]}),
        ])
        status, _ = await server.call(method, path, body)
        return f"{path} {status}"

    async def bad(number):
        method, path, body = BAD[number % len(BAD)]
        status, body = await server.call(method, path, body)
        json.loads(body)["error"]["message"]
        return f"bad input {status}"

    async def client(number):
        while time.monotonic() < ends:
            work = random.choices([chat, images, hang_up, plain, bad], [6, 2, 2, 3, 2])[0]
            try:
                counts[await asyncio.wait_for(work(number), 120)] += 1
            except Refused as refused:
                counts[f"refused {refused.args[0]}"] += 1
            except Exception as error:
                counts[f"LOST {work.__name__}: {type(error).__name__} {error}"] += 1
            number += args.clients

    async def watch():
        while time.monotonic() < ends:
            await asyncio.sleep(min(60, args.seconds / 10))
            memory.append(await server.metric("process_resident_memory_bytes"))
            print(f"{sum(counts.values())} requests, memory {memory[-1] / 1e6:.0f} MB", file=sys.stderr)

    await asyncio.gather(watch(), *map(client, range(args.clients)))
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(2)
    memory.append(await server.metric("process_resident_memory_bytes"))
    print(json.dumps({"requests": sum(counts.values()), "kinds": dict(sorted(counts.items())), "memory_mb": [round(m / 1e6) for m in memory]}, indent=2))
    if any(kind.startswith("LOST") for kind in counts):
        sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "soak"])
    parser.add_argument("url")
    parser.add_argument("--key")
    parser.add_argument("--rounds", type=int, default=8, help="requests of a client that is measured")
    parser.add_argument("--tokens", type=int, default=64, help="of a reply that is measured")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--connections", type=int, default=900, help="that are open and do nothing")
    args = parser.parse_args()
    asyncio.run({"rates": rates, "soak": soak}[args.what](Server(args.url, args.key), args))


if __name__ == "__main__":
    main()
