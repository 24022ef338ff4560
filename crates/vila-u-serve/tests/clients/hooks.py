"""For schemathesis, which knows no pictures and few limits: every second body has values that fields of these names take,
in place of those it made up."""

import itertools

import requests
import schemathesis
from PIL import Image
from support import data_url

PICTURE = data_url(Image.new("RGB", (48, 64), (200, 30, 30)))
VALUES = {
    "cfg": 1.5,
    "dimensions": None,
    "image": PICTURE,
    "images": PICTURE,
    "max_completion_tokens": 8,
    "max_tokens": 8,
    "n": 2,
    "role": "user",
    "size": "auto",
    "temperature": 0.7,
    "top_logprobs": 3,
    "top_p": 0.9,
    "url": PICTURE,
}

turn = itertools.count()


def sensible(value, name=None):
    if isinstance(value, dict):
        value = {key: sensible(one, key) for key, one in value.items()}
        if "type" in value:
            value["type"] = "image_url" if value.get("image_url") else "text"
            value.setdefault("text", "a cat")
        return value
    if name == "messages" and not value:
        value = [{"role": "user", "content": "Is a cat an animal?"}]
    if isinstance(value, list):
        return [sensible(one, name) for one in value]
    return value if value is None else VALUES.get(name, value)


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.media_type == "application/json" and next(turn) % 2:
        case.body = sensible(case.body)


@schemathesis.hook
def after_call(context, case, response):
    """Videos take long, and the others would wait for them."""
    if case.method == "POST" and case.path == "/v1/videos" and response.status_code == 200:
        requests.post(f"{case.operation.base_url.rstrip('/')}/v1/videos/{response.json()['id']}/cancel", timeout=60)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Answers of events are described as texts, and schemathesis would look at each event as an object."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                answer.get("content", {}).get("text/event-stream", {}).pop("schema", None)
