"""The official client: embeddings of texts and pictures."""

import math

import pytest
from support import data_url

dot = lambda one, other: sum(a * b for a, b in zip(one, other))


def test_texts(client):
    # The client asks for base64 unless told otherwise.
    texts = ["a red heart on a blue background", "two dogs", "two dogs"]
    answer = client.embeddings.create(model="nano", input=texts)
    vectors = [one.embedding for one in answer.data]
    assert [one.index for one in answer.data] == [0, 1, 2] and vectors[1] == vectors[2] != vectors[0]
    assert all(math.isclose(dot(vector, vector), 1, abs_tol=1e-3) for vector in vectors)
    plain = client.embeddings.create(model="nano", input=texts[0], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors[0], abs=1e-6) and plain.usage.prompt_tokens > 0
    assert client.embeddings.create(model="nano", input="x", dimensions=len(vectors[0])).data


def test_pictures_are_in_the_same_space(client, heart):
    part = {"type": "image_url", "image_url": {"url": data_url(heart)}}
    labels = ["a picture with a blue background", "a picture with a white background"]
    answer = client.embeddings.create(model="nano", input=[part, *labels])
    image, blue, white = [one.embedding for one in answer.data]
    assert math.isclose(dot(image, image), 1, abs_tol=1e-3) and len(image) == len(blue)
    assert dot(image, blue) > dot(image, white)
