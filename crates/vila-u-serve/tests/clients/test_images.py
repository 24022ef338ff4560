"""The official client: images."""

import pytest
import requests
from support import picture

HEART = {"model": "nano", "prompt": "a red heart on a blue background"}


def test_an_image(client):
    images = client.images.generate(**HEART, extra_body={"seed": 3})
    (image,) = images.data
    assert picture(image.b64_json).size == (64, 64) and picture(image.b64_json).format == "PNG"
    assert images.usage.output_tokens == 64
    assert images.usage.input_tokens + images.usage.output_tokens == images.usage.total_tokens
    assert images.seed == image.seed == 3 and images.size == "64x64"


def test_the_same_seed_gives_the_same_pictures(client):
    make = lambda n: [
        image.b64_json for image in client.images.generate(**HEART, n=n, extra_body={"seed": 5, "temperature": 1}).data
    ]
    four = make(4)
    assert len(set(four)) == 4 and four == make(4) and four[:1] == make(1)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_other_sizes_and_formats(client, kind):
    images = client.images.generate(**HEART, size="96x128", output_format=kind, quality="low", background="auto")
    image = picture(images.data[0].b64_json)
    assert image.size == (96, 128) and image.format == kind.upper() and images.output_format == kind


def test_by_address(client, server):
    (image,) = client.images.generate(**HEART, response_format="url").data
    assert image.url.startswith(server.url) and image.b64_json is None
    answer = requests.get(image.url, timeout=30)
    assert answer.headers["content-type"] == "image/png" and answer.content.startswith(b"\x89PNG")


def test_pictures_appear_as_they_are_drawn(client):
    events = list(client.images.generate(**HEART, n=2, stream=True, partial_images=2))
    named = lambda name: [event for event in events if event.type == f"image_generation.{name}"]
    partial, completed = named("partial_image"), named("completed")
    assert sorted((event.image_index, event.partial_image_index) for event in partial) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sorted(event.image_index for event in completed) == [0, 1]
    for event in partial + completed:
        assert picture(event.b64_json).size == (64, 64)
    assert completed[0].usage.output_tokens == 64
    assert events[-1].type == "image_generation.completed"
