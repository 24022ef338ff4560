//! Pictures from texts.

use serde_json::{Value, json};
use vila_u::image;

use super::{Client, Options, SHARED, decoded, start};

const PATH: &str = "/v1/images/generations";

#[test]
fn pictures_are_as_large_as_asked_and_the_same_for_a_seed() {
    let body = json!({"prompt": "a red heart on a blue background", "n": 2, "seed": 7, "size": "auto",
                      "model": "dall-e-3", "quality": "hd", "style": null});
    let answer = SHARED.ok(PATH, body.clone());
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    assert_eq!(decoded(&data[0]["b64_json"]).dimensions(), (64, 64));
    assert_ne!(data[0]["b64_json"], data[1]["b64_json"]);
    assert_eq!((&answer["seed"], &data[1]["index"]), (&json!(7), &json!(1)));
    assert_eq!(answer["usage"]["output_tokens"], 128);
    assert_eq!(SHARED.ok(PATH, body)["data"], answer["data"]);
    let large = json!({"prompt": "a red heart", "size": "128x96", "output_format": "jpeg", "output_compression": 80,
                       "seed": 18_446_744_073_709_551_615_u64, "cfg": 1, "temperature": 0.5, "top_k": 5, "top_p": 0.9});
    let large = SHARED.ok(PATH, large);
    assert_eq!(
        decoded(&large["data"][0]["b64_json"]).dimensions(),
        (128, 96)
    );
    assert_eq!(large["seed"], json!(u64::MAX));
    let greedy = SHARED.ok(
        PATH,
        json!({"prompt": "a dog", "greedy": true, "output_format": "webp"}),
    );
    assert_eq!(
        decoded(&greedy["data"][0]["b64_json"]).dimensions(),
        (64, 64)
    );
}

#[test]
fn a_new_seed_is_told_and_gives_the_same_again() {
    let first = SHARED.ok(PATH, json!({"prompt": "a dog", "seed": -1, "top_p": 0.9}));
    let seed = first["seed"].as_u64().unwrap();
    assert!(seed < 1 << 53);
    let again = SHARED.ok(PATH, json!({"prompt": "a dog", "seed": seed, "top_p": 0.9}));
    assert_eq!(again["data"], first["data"]);
    // No token at all would be left: the most probable one.
    let none = SHARED.ok(PATH, json!({"prompt": "a dog", "top_p": 0}));
    let greedy = SHARED.ok(PATH, json!({"prompt": "a dog", "greedy": true}));
    assert_eq!(none["data"][0]["b64_json"], greedy["data"][0]["b64_json"]);
}

#[test]
fn a_refusal_is_the_status_even_of_a_stream() {
    let server = start(Options::default());
    let client = Client::of(&server);
    // Short enough to be given to the model, which finds it too long.
    let prompt = "a red heart ".repeat(2000);
    for stream in [false, true] {
        let (status, message) = client.error(PATH, json!({"prompt": prompt, "stream": stream}));
        assert_eq!(status, 400, "{message}");
    }
    assert_eq!(
        client.metric("vila_u_time_to_first_token_seconds_count"),
        0.0
    );
    assert_eq!(server.stop(), 0);
}

#[test]
fn urls_lead_to_the_pictures() {
    let answer = SHARED.ok(
        PATH,
        json!({"prompt": "a dog", "response_format": "url", "output_format": "png"}),
    );
    let url = answer["data"][0]["url"].as_str().unwrap();
    let path = url.strip_prefix(&SHARED.url("")).unwrap();
    let file = SHARED.get(path);
    assert_eq!(
        (file.status, file.header("content-type")),
        (200, "image/png")
    );
    assert_eq!(image::load_from_memory(&file.body).unwrap().width(), 64);
    assert_eq!(SHARED.get("/v1/files/file-0/content").error().0, 404);
}

#[test]
fn streams_show_the_way_and_the_result() {
    let body =
        json!({"prompt": "a red heart", "n": 2, "seed": 3, "stream": true, "partial_images": 2});
    let events = SHARED.post(PATH, body.clone()).events();
    let of = |name: &str, image: usize| -> Vec<Value> {
        let name = format!("image_generation.{name}");
        let all = events
            .iter()
            .filter(|(event, data)| *event == name && data["image_index"] == image);
        all.map(|(_, data)| data.clone()).collect()
    };
    let mut whole = body;
    whole["stream"] = json!(false);
    let whole = SHARED.ok(PATH, whole);
    for image in 0..2 {
        let partial = of("partial_image", image);
        let indices: Vec<&Value> = partial
            .iter()
            .map(|data| &data["partial_image_index"])
            .collect();
        assert_eq!(indices, [0, 1]);
        assert_eq!(decoded(&partial[0]["b64_json"]).dimensions(), (64, 64));
        let progress = of("progress", image);
        assert!(
            progress
                .iter()
                .all(|data| data["total"] == 64 && data["done"].as_u64() <= Some(64))
        );
        let completed = of("completed", image);
        assert_eq!(completed.len(), 1);
        assert_eq!(completed[0]["b64_json"], whole["data"][image]["b64_json"]);
        assert_eq!(completed[0]["usage"]["output_tokens"], 64);
        assert_eq!(completed[0]["type"], "image_generation.completed");
    }
}

#[test]
fn wrong_wishes_are_explained() {
    for (body, expected) in [
        (json!({"n": 1}), "prompt"),
        (json!({"prompt": "x", "n": 65}), "64"),
        (json!({"prompt": "x", "size": "huge"}), "size"),
        (json!({"prompt": "x", "size": "100000x100000"}), "2048"),
        (
            json!({"prompt": "x", "size": "2048x2048", "n": 64}),
            "fewer",
        ),
        (
            json!({"prompt": "x", "output_format": "tiff"}),
            "output_format",
        ),
        (
            json!({"prompt": "x", "response_format": "pigeon"}),
            "response_format",
        ),
        (json!({"prompt": "x", "size": "2048x2048", "n": 5}), "fewer"),
        (json!({"prompt": "x", "seed": 1.5}), "seed"),
        (json!({"prompt": "x", "temperature": -1}), "temperature"),
        (json!({"prompt": ["x"]}), "prompt"),
    ] {
        let (status, message) = SHARED.error(PATH, body.clone());
        assert_eq!(status, 400, "{body}: {message}");
        assert!(message.contains(expected), "{body}: {message}");
    }
}
