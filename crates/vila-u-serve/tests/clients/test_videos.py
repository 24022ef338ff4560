"""The official client: videos as jobs, and questions about them."""

import base64

import requests
from support import picture, until


def test_a_video_and_a_question_about_it(client, server):
    job = client.videos.create(model="nano", prompt="a red heart moves to the left", seconds="4", size="720x1280")
    assert job.status in ("queued", "in_progress") and job.object == "video"
    done = until(lambda: (now := client.videos.retrieve(job.id)).status == "completed" and now, 60)
    assert done.progress == 100 and done.error is None
    mp4 = client.videos.download_content(job.id).read()
    assert mp4[4:8] == b"ftyp"
    frames = client.videos.download_content(job.id, variant="spritesheet").read()
    assert picture(base64.b64encode(frames)).format == "PNG"
    assert job.id in [one.id for one in client.videos.list()]

    url = "data:video/mp4;base64," + base64.b64encode(mp4).decode()
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What moves?"}]
    answer = client.chat.completions.create(model="nano", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content.strip() and answer.usage.prompt_tokens > 8 * 64

    assert client.videos.delete(job.id).deleted
    assert requests.get(f"{server.url}/v1/videos/{job.id}", timeout=30).status_code == 404


def test_a_cancelled_video(server):
    until(server.idle)
    job = requests.post(f"{server.url}/v1/videos", json={"prompt": "a cat turns"}, timeout=30).json()
    cancelled = requests.post(f"{server.url}/v1/videos/{job['id']}/cancel", timeout=30).json()
    assert cancelled["status"] == "cancelled"
    until(server.idle)
    assert requests.get(f"{server.url}/v1/videos/{job['id']}/content", timeout=30).status_code == 404
