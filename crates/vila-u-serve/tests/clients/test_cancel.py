"""The official client: whoever stops reading frees what was computed for it, as /metrics tells."""

import asyncio

import openai
import pytest
from support import until

MANY = {"model": "nano", "prompt": "a cat on a green background", "n": 64}


def test_a_closed_stream(server, client):
    until(server.idle)
    stream = client.images.generate(**MANY, stream=True)
    next(iter(stream))
    assert server.metric("vila_u_requests_running") > 0
    drawn = server.metric("vila_u_generated_tokens_total")
    stream.close()
    until(server.idle)
    assert server.metric("vila_u_generated_tokens_total") - drawn < 64 * 32, "it was drawn to the end"


def test_a_cancelled_request(server):
    async def cancel():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            task = asyncio.create_task(client.images.generate(**MANY))
            await asyncio.to_thread(until, lambda: not server.idle())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    until(server.idle)
    asyncio.run(cancel())
    until(server.idle)


def test_a_request_that_took_too_long(server, client):
    until(server.idle)
    with pytest.raises(openai.APITimeoutError):
        client.images.generate(**MANY, timeout=0.3)
    until(server.idle)
