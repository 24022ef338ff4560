//! Many clients of every kind at once.

use std::thread;

use serde_json::{Value, json};

use super::{SHARED, picture_url};

#[test]
fn thirty_two_mixed_requests_get_what_they_would_alone() {
    let question = json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": picture_url()}}, {"type": "text", "text": "What is in this picture?"}]}],
        "temperature": 0});
    let kinds: Vec<(&str, Value, &str)> = vec![
        (
            "/v1/chat/completions",
            question,
            "/choices/0/message/content",
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "What has four legs?"}], "temperature": 1, "seed": 4}),
            "/choices/0/message/content",
        ),
        (
            "/v1/images/generations",
            json!({"prompt": "a red heart", "seed": 1, "n": 2}),
            "/data/1/b64_json",
        ),
        (
            "/v1/embeddings",
            json!({"input": ["a dog", "a cat"]}),
            "/data",
        ),
        ("/v1/encode", json!({"image": picture_url()}), "/codes"),
        (
            "/v1/classify",
            json!({"image": picture_url(), "labels": ["a dog", "a red square"]}),
            "/labels",
        ),
        (
            "/sdapi/v1/txt2img",
            json!({"prompt": "a dog", "seed": 2}),
            "/images",
        ),
        (
            "/v1/reconstruct",
            json!({"image": picture_url()}),
            "/depths",
        ),
    ];
    let ask =
        |(path, body, at): &(&str, Value, &str)| SHARED.ok(path, body.clone()).pointer(at).cloned();
    let alone: Vec<Option<Value>> = kinds.iter().map(ask).collect();
    assert!(alone.iter().all(Option::is_some));
    thread::scope(|scope| {
        let running: Vec<_> = (0..32)
            .map(|index| {
                let kind = index % kinds.len();
                let asked = &kinds[kind];
                (kind, scope.spawn(move || ask(asked)))
            })
            .collect();
        for (kind, answer) in running {
            assert_eq!(answer.join().unwrap(), alone[kind], "{}", kinds[kind].0);
        }
    });
}
