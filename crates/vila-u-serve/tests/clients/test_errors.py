"""The official client: what goes wrong is the exception that it has for it."""

import concurrent.futures

import openai
import pytest
import requests
from support import about, data_url

TEXT = [{"role": "user", "content": "Is a cat an animal?"}]


@pytest.mark.parametrize(
    "request_, param",
    [
        ({"messages": TEXT, "temperature": -1}, "temperature"),
        ({"messages": TEXT, "n": 0}, "n"),
        ({"messages": TEXT, "max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": about("data:image/png;base64,AAAA")}, "messages[0].content[0]"),
        ({"messages": about("http://127.0.0.1:1/x.png")}, "messages[0].content[0]"),
        ({"messages": about("file:///etc/passwd")}, "messages[0].content[0]"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(client, request_, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="nano", stream=stream, **request_)
    error = caught.value
    assert (error.status_code, error.param, error.type) == (400, param, "invalid_request_error")
    assert error.body["message"] and error.request_id


def test_what_is_not_there(client):
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve("video_none")
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="x")


def test_only_who_knows_the_key(start, heart):
    server = start(VILA_U_API_KEY="secret")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0)
    for call in (client.models.list, lambda: client.chat.completions.create(model="nano", messages=TEXT)):
        with pytest.raises(openai.AuthenticationError) as caught:
            call()
        assert caught.value.code == "invalid_api_key"
    client = client.with_options(api_key="secret")
    assert client.models.list().data
    assert client.chat.completions.create(model="nano", messages=about(data_url(heart))).choices[0].message.content
    statuses = {path: requests.get(server.url + path, timeout=30).status_code for path in ("/health", "/metrics", "/")}
    assert statuses == {"/health": 200, "/metrics": 401, "/": 200}
    # As the password, for image front ends.
    for password, status in (("secret", 200), ("wrong", 401)):
        answer = requests.get(server.url + "/sdapi/v1/options", auth=("user", password), timeout=30)
        assert answer.status_code == status


def test_a_full_queue_says_when_to_come_back(start):
    server = start("--max-queue", "1")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    draw = lambda client: client.images.generate(model="nano", prompt="a cat", n=4)

    def patient(_):
        return draw(client.with_options(max_retries=50, timeout=120))

    def impatient(_):
        try:
            return draw(client)
        except openai.RateLimitError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        refused = [answer for answer in threads.map(impatient, range(16)) if isinstance(answer, Exception)]
        assert refused, "none of 16 clients at once was refused"
        assert all(int(error.response.headers["retry-after"]) > 0 for error in refused)
        assert all(len(answer.data) == 4 for answer in threads.map(patient, range(4)))


def test_what_runs_is_finished_before_the_end(start):
    server = start()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    stream = client.images.generate(model="nano", prompt="a cat", n=16, stream=True)
    next(iter(stream))
    server.process.terminate()
    assert sum(event.type == "image_generation.completed" for event in stream) == 16
    assert server.process.wait(60) == 0
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
