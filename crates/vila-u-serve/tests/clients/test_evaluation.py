"""Requests as lmms-eval and VLMEvalKit send them."""

import concurrent.futures
import json

import openai
import requests
from PIL import Image
from support import data_url, picture


def pictures(client, count):
    images = client.images.generate(model="nano", prompt="a red heart on a blue background", n=count)
    return [picture(image.b64_json) for image in images.data]


def test_lmms_eval(server, client):
    """Images in PNG before the text, temperature 0, max_tokens of the task or 1024, eight at once, a time limit of 10 s."""

    def ask(image):
        content = [
            {"type": "image_url", "image_url": {"url": data_url(image)}},
            {"type": "text", "text": "What is in this picture?\nAnswer the question using a single word or phrase."},
        ]
        answer = openai.OpenAI(base_url=server.url + "/v1", api_key="none", timeout=10).chat.completions.create(
            messages=[{"role": "user", "content": content}], model="nano", max_tokens=1024, temperature=0
        )
        return answer.choices[0].message.content, answer.usage

    images = pictures(client, 8)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        together = list(threads.map(ask, images))
    assert all(text.strip() and usage.completion_tokens for text, usage in together)
    assert [text for text, _ in together] == [ask(image)[0] for image in images], "neighbours changed an answer"


def test_lmms_eval_frames_and_reasoning_models(client):
    """A video comes as ten pictures; models that it takes for OpenAI's own get other fields."""
    content = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in pictures(client, 10)]
    content.append({"type": "text", "text": "What moves?"})
    answer = client.chat.completions.create(
        messages=[{"role": "user", "content": content}],
        model="gpt-5-vila-u",
        response_format={"type": "text"},
        max_completion_tokens=1024,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    assert answer.choices[0].message.content is not None and answer.usage.prompt_tokens > 640


def test_vlmevalkit(server):
    """JPEG with `detail`, n = 1, max_tokens 32768, all by `requests`; several pictures between texts."""
    image = {"url": data_url(Image.new("RGB", (640, 480), (200, 30, 30)), "JPEG"), "detail": "low"}
    content = [
        {"type": "text", "text": "First:"},
        {"type": "image_url", "image_url": image},
        {"type": "text", "text": "Second:"},
        {"type": "image_url", "image_url": image},
        {"type": "text", "text": "Are they the same? Answer yes or no."},
    ]
    messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": content}]
    payload = {"model": "nano", "messages": messages, "n": 1, "temperature": 0, "max_tokens": 32768}
    answer = requests.post(
        server.url + "/v1/chat/completions",
        headers={"Content-Type": "application/json", "Authorization": "Bearer none"},
        data=json.dumps(payload),
        timeout=60,
    )
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"].strip()

    # Its judge asks in plain text.
    payload = {"model": "nano", "messages": [{"role": "user", "content": "Is a cat an animal?"}], "temperature": 0}
    answer = requests.post(server.url + "/v1/chat/completions", data=json.dumps(payload), timeout=60)
    assert answer.json()["choices"][0]["message"]["content"].strip()
