"""The official client: conversations."""

import asyncio
import math

import openai
from support import about, data_url, picture

TEXT = [{"role": "user", "content": "Is a cat an animal?"}]
DRAW = [{"role": "user", "content": "Draw a red heart on a blue background and say where it is."}]
BOTH = ["image", "text"]


def test_lists_its_model(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.image_size) == ("nano", "model", 64)
    assert client.models.retrieve("nano").id == "nano"


def test_answers_about_a_picture(client, heart):
    answer = client.chat.completions.create(model="gpt-4o", messages=about(data_url(heart)), temperature=0)
    (choice,) = answer.choices
    assert choice.message.content.strip() and choice.message.role == "assistant" and choice.finish_reason == "stop"
    assert (answer.object, answer.model) == ("chat.completion", "nano")
    usage = answer.usage
    assert usage.prompt_tokens > 64 and usage.prompt_tokens + usage.completion_tokens == usage.total_tokens


def test_the_second_time_its_prompt_is_not_read_again(client, heart):
    ask = lambda: client.chat.completions.create(model="nano", messages=about(data_url(heart)), temperature=0)
    first, second = ask(), ask()
    assert second.choices[0].message.content == first.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens > 64


def test_a_conversation_goes_on(client, heart):
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        *about(data_url(heart)),
        {"role": "assistant", "content": "a red heart"},
        {"role": "user", "content": "What colour is the background?"},
    ]
    assert client.chat.completions.create(model="nano", messages=messages).choices[0].message.content


def test_several_pictures(client, heart):
    other = client.images.generate(model="nano", prompt="two dogs on a white background").data[0].b64_json
    messages = about(data_url(heart), data_url(other), text="What is the difference between these pictures?")
    answer = client.chat.completions.create(model="nano", messages=messages)
    assert answer.choices[0].message.content and answer.usage.prompt_tokens > 128


def test_a_stream_has_the_words_of_the_answer(client, heart):
    request = {"model": "nano", "messages": about(data_url(heart)), "temperature": 0}
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks[:-1])
    assert len(chunks) > 4, "the words came at once"
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**request, stream=True))


def test_streams_at_once_from_the_asynchronous_client(server, heart):
    async def ask(client):
        stream = await client.chat.completions.create(
            model="nano", messages=about(data_url(heart)), temperature=0, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*[ask(client) for _ in range(8)])

    replies = asyncio.run(all_of_them())
    assert replies[0] and len(set(replies)) == 1


def test_log_probabilities(client, heart):
    answer = client.chat.completions.create(
        model="nano", messages=about(data_url(heart)), temperature=0, logprobs=True, top_logprobs=5
    )
    tokens = answer.choices[0].logprobs.content
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert text.strip() == answer.choices[0].message.content.strip()
    for token in tokens:
        assert len(token.top_logprobs) == 5
        # The most probable one, as temperature 0 has it.
        assert token.logprob == token.top_logprobs[0].logprob <= 0
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) < 1.001
    assert client.chat.completions.create(model="nano", messages=TEXT).choices[0].logprobs is None


def test_several_replies_have_seeds_of_their_own(client, heart):
    def ask(seed, n):
        answer = client.chat.completions.create(
            model="nano", messages=about(data_url(heart)), temperature=1.5, seed=seed, n=n
        )
        assert [choice.index for choice in answer.choices] == list(range(n))
        return [choice.message.content for choice in answer.choices]

    three = ask(7, 3)
    assert three == ask(7, 3)
    assert three[2:] == ask(9, 1)


def test_stops_before_a_word(client, heart):
    ask = lambda **more: client.chat.completions.create(
        model="nano", messages=about(data_url(heart)), temperature=0, **more
    )
    whole = ask().choices[0].message.content
    last = whole.split()[-1]
    for stop in (last, ["never", last]):
        choice = ask(stop=stop).choices[0]
        assert choice.finish_reason == "stop" and last not in choice.message.content
        assert whole.startswith(choice.message.content)


def test_lengths_are_clamped_and_not_refused(client):
    one = client.chat.completions.create(model="nano", messages=TEXT, max_completion_tokens=1)
    assert (one.choices[0].finish_reason, one.usage.completion_tokens) == ("length", 1)
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model="nano", messages=TEXT, **{name: 10**9})
        assert answer.choices[0].finish_reason == "stop"


def test_pictures_in_a_reply(client):
    ask = lambda **more: client.chat.completions.create(model="nano", messages=DRAW, temperature=0, seed=1, **more)
    answer = ask(modalities=BOTH)
    (image,) = answer.choices[0].message.images
    assert image["type"] == "image_url" and isinstance(answer.choices[0].message.content, str)
    head, _, body = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and picture(body).size == (64, 64)
    assert answer.usage.completion_tokens > 64, "the picture's tokens were not counted"

    streamed = []
    for chunk in ask(modalities=BOTH, stream=True):
        streamed += getattr(chunk.choices[0].delta, "images", None) or []
    assert streamed == [image]
    assert not hasattr(ask().choices[0].message, "images")

    # What was drawn goes back into the conversation as it came.
    said = answer.choices[0].message.model_dump(exclude_none=True)
    messages = [*DRAW, said, {"role": "user", "content": "What is in this picture?"}]
    follow = client.chat.completions.create(model="nano", messages=messages)
    assert follow.choices[0].message.content and follow.usage.prompt_tokens > answer.usage.prompt_tokens + 64


def test_what_other_models_know_is_ignored(client):
    answer = client.chat.completions.create(
        model="o3",
        messages=[{"role": "developer", "content": "Be brief."}, *TEXT],
        frequency_penalty=0.5,
        logit_bias={},
        metadata={"run": "1"},
        parallel_tool_calls=True,
        reasoning_effort="low",
        response_format={"type": "text"},
        service_tier="auto",
        store=False,
        user="somebody",
    )
    assert answer.choices[0].message.content
