"""The API of the Stable Diffusion web UI, called as Open WebUI and SillyTavern call it."""

import base64
import json
import threading

import pytest
import requests
from support import picture, until


@pytest.fixture(scope="module")
def call(server):
    session = requests.Session()
    session.headers["authorization"] = "Basic " + base64.b64encode(b"user:none").decode()

    def call(method, name, **more):
        answer = session.request(method, f"{server.url}/sdapi/v1/{name}", timeout=120, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return call


def test_open_webui(call):
    options = call("GET", "options")
    assert options["sd_model_checkpoint"] == "nano"
    assert [(model["title"], model["model_name"]) for model in call("GET", "sd-models")] == [("nano", "nano")]
    call("POST", "options", json={**options, "sd_model_checkpoint": "other"})
    assert call("GET", "options")["sd_model_checkpoint"] == "nano"
    drawn = call(
        "POST",
        "txt2img",
        json={
            "prompt": "a red heart on a blue background",
            "batch_size": 2,
            "width": 512,
            "height": 512,
            "steps": 50,
            "negative_prompt": "blurry",
            "sampler_name": "Euler a",
        },
    )
    assert [picture(image).size for image in drawn["images"]] == [(512, 512)] * 2
    assert len(json.loads(drawn["info"])["all_seeds"]) == 2


def test_sillytavern(call):
    assert call("GET", "options")
    upscalers = [one["name"] for one in call("GET", "upscalers")]
    upscalers[1:1] = [one["name"] for one in call("GET", "latent-upscale-modes")]
    assert [one["model_name"] for one in call("GET", "sd-vae")] == [one["model_name"] for one in call("GET", "sd-modules")]
    (sampler,) = [one["name"] for one in call("GET", "samplers")]
    (scheduler,) = [one["name"] for one in call("GET", "schedulers")]
    (model,) = [one["title"] for one in call("GET", "sd-models")]
    call("POST", "options", json={"sd_model_checkpoint": model})
    progress = call("GET", "progress")
    assert progress["progress"] == 0.0 and progress["state"]["job_count"] == 0, "it would wait for a model to load"
    drawn = call(
        "POST",
        "txt2img",
        json={
            "url": "http://127.0.0.1:7860",
            "auth": "",
            "prompt": "a red heart on a blue background",
            "negative_prompt": "blurry",
            "sampler_name": sampler,
            "scheduler": scheduler,
            "steps": 20,
            "cfg_scale": 1.5,
            "width": 128,
            "height": 192,
            "restore_faces": False,
            "enable_hr": False,
            "hr_upscaler": "Latent",
            "hr_scale": 1,
            "hr_additional_modules": [],
            "denoising_strength": 0.7,
            "hr_second_pass_steps": 0,
            "seed": -1,
            "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
            "override_settings_restore_afterwards": True,
            "clip_skip": 1,
            "save_images": True,
            "send_images": True,
            "do_not_save_grid": False,
            "do_not_save_samples": False,
        },
    )
    (image,) = drawn["images"]
    assert picture(image).size == (128, 192)


def test_a_seed_is_kept(call):
    draw = lambda: call("POST", "txt2img", json={"prompt": "a cat", "seed": 11, "n_iter": 2, "width": 64, "height": 64})
    first = draw()
    assert first["images"] == draw()["images"] and json.loads(first["info"])["seed"] == 11


def test_an_interrupt(call, server):
    until(server.idle)
    answers = []
    body = {"prompt": "a cat", "batch_size": 64, "width": 64, "height": 64}
    drawing = threading.Thread(target=lambda: answers.append(call("POST", "txt2img", json=body)))
    drawing.start()
    until(lambda: call("GET", "progress")["progress"] > 0)
    call("POST", "interrupt")
    drawing.join(30)
    assert len(answers[0]["images"]) < 64
    until(server.idle)
