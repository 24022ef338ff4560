//! Videos as jobs.

use std::{thread::sleep, time::Duration};

use serde_json::{Value, json};
use vila_u::{image, media::video};

use super::{Answer, Client, Options, SHARED, data_url, start};

fn wait(client: &Client, id: &str) -> Value {
    loop {
        let job = client.get(&format!("/v1/videos/{id}")).json();
        match job["status"].as_str().unwrap() {
            "queued" | "in_progress" => sleep(Duration::from_millis(50)),
            _ => return job,
        }
    }
}

#[test]
fn a_video_is_made_watched_and_forgotten() {
    let job = SHARED.ok(
        "/v1/videos",
        json!({"prompt": "a red heart moves to the left", "seed": 5, "seconds": "4",
                                             "size": "1280x720", "model": "sora-2"}),
    );
    let id = job["id"].as_str().unwrap();
    assert!(id.starts_with("video_"));
    assert_eq!(job["object"], "video");
    let early = SHARED.get(&format!("/v1/videos/{id}/content"));
    assert!(early.status == 404 || early.status == 200);
    let job = wait(&SHARED, id);
    assert_eq!(
        (&job["status"], &job["progress"]),
        (&json!("completed"), &json!(100)),
        "{job}"
    );
    assert_eq!(
        (&job["seconds"], &job["size"]),
        (&json!("2"), &json!("64x64"))
    );
    let content = SHARED.get(&format!("/v1/videos/{id}/content"));
    assert_eq!(
        (content.status, content.header("content-type")),
        (200, "video/mp4")
    );
    let frames = video::decode(&content.body, 8, video::FrameSampling::Inference).unwrap();
    assert_eq!((frames.len(), frames[0].dimensions()), (8, (64, 64)));
    let sheet = SHARED.get(&format!("/v1/videos/{id}/content?variant=frames"));
    assert_eq!(image::load_from_memory(&sheet.body).unwrap().height(), 64);
    assert_eq!(
        SHARED
            .get(&format!("/v1/videos/{id}/content?variant=smell"))
            .error()
            .0,
        400
    );
    let list = SHARED.get("/v1/videos?limit=100").json();
    assert!(
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|job| job["id"] == id)
    );

    // The model watches what it made, whatever the client calls it.
    for (part, field) in [("video_url", "video_url"), ("image_url", "image_url")] {
        let url = data_url("video/mp4", &content.body);
        let mut content = json!([{"type": part}, {"type": "text", "text": "What moves?"}]);
        content[0][field] = json!({"url": url});
        let answer = SHARED.ok(
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": content}]}),
        );
        assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 8 * 64);
    }

    let deleted = SHARED.delete(&format!("/v1/videos/{id}"));
    assert_eq!(deleted.json()["deleted"], true);
    assert_eq!(SHARED.get(&format!("/v1/videos/{id}")).error().0, 404);
    assert_eq!(
        SHARED.get(&format!("/v1/videos/{id}/content")).error().0,
        404
    );
}

#[test]
fn a_job_that_fails_says_why_and_takes_little() {
    let prompt = "a red heart ".repeat(2000);
    let job = SHARED.ok("/v1/videos", json!({"prompt": prompt}));
    let job = wait(&SHARED, job["id"].as_str().unwrap());
    assert_eq!(job["status"], "failed", "{job}");
    assert_eq!(job["error"]["code"], "invalid_request");
    assert_eq!(job["prompt"].as_str().unwrap().len(), 4000);
}

#[test]
fn forms_are_read_as_well() {
    let form = "--b\r\nContent-Disposition: form-data; name=\"input_reference\"; filename=\"a.png\"\r\n\r\n\u{1}\r\n\
                --b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na dog grows\r\n\
                --b\r\nContent-Disposition: form-data; name=\"seed\"\r\n\r\n7\r\n--b--\r\n";
    let request = SHARED.agent.post(SHARED.url("/v1/videos"));
    let request = request.content_type("multipart/form-data; boundary=b");
    let answer = Answer::of(request.send(form).unwrap());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let job = answer.json();
    assert_eq!(
        (&job["prompt"], &job["seed"]),
        (&json!("a dog grows"), &json!(7))
    );
    SHARED.delete(&format!("/v1/videos/{}", job["id"].as_str().unwrap()));
    for wrong in ["--b\r\nContent-Disp", "", "--b--\r\n"] {
        let request = SHARED.agent.post(SHARED.url("/v1/videos"));
        let request = request.content_type("multipart/form-data; boundary=b");
        assert_eq!(Answer::of(request.send(wrong).unwrap()).error().0, 400);
    }
}

#[test]
fn a_video_is_cancelled_within_a_token() {
    let server = start(Options::default());
    let client = Client::of(&server);
    let jobs: Vec<Value> = (0..8)
        .map(|_| client.ok("/v1/videos", json!({"prompt": "a dog"})))
        .collect();
    for job in &jobs {
        let id = job["id"].as_str().unwrap();
        let cancelled = client.ok(&format!("/v1/videos/{id}/cancel"), json!({}));
        assert_eq!(cancelled["status"], "cancelled");
        assert_eq!(
            client.get(&format!("/v1/videos/{id}/content")).error().0,
            404
        );
    }
    client.wait_until_idle(Duration::from_secs(5));
    assert_eq!(
        client.get("/v1/videos?limit=3&order=asc").json()["has_more"],
        true
    );
    assert_eq!(client.get("/v1/videos?after=none").error().0, 404);
    let last = jobs[6]["id"].as_str().unwrap();
    let page = client
        .get(&format!("/v1/videos?order=asc&after={last}"))
        .json();
    assert_eq!(page["data"].as_array().unwrap().len(), 1);
    assert_eq!(page["data"][0]["id"], jobs[7]["id"]);
    assert_eq!(page["data"][0]["status"], "cancelled");
    assert!(page["data"][0]["expires_at"].as_u64() >= page["data"][0]["created_at"].as_u64());
    assert_eq!(client.error("/v1/videos/none/cancel", json!({})).0, 404);
    assert_eq!(client.error("/v1/videos", json!({"seed": 1})).0, 400);
    assert_eq!(
        client
            .error("/v1/videos", json!({"prompt": "x", "temperature": -1}))
            .0,
        400
    );
    assert_eq!(server.stop(), 0);
}
