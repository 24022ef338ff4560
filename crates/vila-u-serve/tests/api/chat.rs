//! Conversations.

use std::{io::Read, time::Duration};

use serde_json::{Value, json};
use vila_u::image::ImageFormat;

use super::{Client, Options, SHARED, data_url, file, picture, picture_url, start};

fn about_picture() -> Value {
    json!([{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": picture_url(), "detail": "low"}},
        {"type": "text", "text": "What is in this picture?"},
    ]}])
}

#[test]
fn questions_about_pictures_are_answered() {
    let answer = SHARED.ok(
        "/v1/chat/completions",
        json!({"model": "gpt-4o", "messages": about_picture(), "temperature": 0, "max_tokens": 32768, "n": 1,
               "presence_penalty": 0, "user": null, "seed": null, "something": {"new": []}}),
    );
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "nano");
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(text.contains("red"), "{text}");
    assert_eq!(text.trim_start(), text);
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["logprobs"], Value::Null);
    let usage = &answer["usage"];
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 64, "{usage}");
    let sum =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"].as_u64(), Some(sum));
}

/// What clients call a picture differs, the answer does not.
#[test]
fn pictures_come_in_every_spelling() {
    let ask = |part: Value| {
        let content = json!([part, {"type": "text", "text": "What is in this picture?"}]);
        let body = json!({"messages": [{"role": "user", "content": content}], "temperature": 0});
        let answer = SHARED.ok("/v1/chat/completions", body);
        answer["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_string()
    };
    let expected = ask(json!({"type": "image_url", "image_url": {"url": picture_url()}}));
    for url in [
        data_url("image/webp", &file(&picture(), ImageFormat::WebP)),
        data_url(
            "application/octet-stream",
            &file(&picture(), ImageFormat::Bmp),
        ),
        picture_url().replace("data:image/png", "data:image/png;charset=utf-8"),
    ] {
        assert_eq!(
            ask(json!({"type": "image_url", "image_url": url})),
            expected
        );
    }
    let jpeg = data_url("image/jpeg", &file(&picture(), ImageFormat::Jpeg));
    assert!(ask(json!({"type": "input_image", "image_url": jpeg})).contains("red"));
}

#[test]
fn streams_say_the_same_and_end() {
    let body = json!({"messages": about_picture(), "temperature": 0.0});
    let whole = SHARED.ok("/v1/chat/completions", body.clone());
    let mut streamed = body;
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let answer = SHARED.post("/v1/chat/completions", streamed);
    let mut events = answer.events();
    assert_eq!(events.pop().unwrap().1, "[DONE]");
    let usage = events.pop().unwrap().1;
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(
        usage["usage"]["completion_tokens"],
        whole["usage"]["completion_tokens"]
    );
    let last = events.pop().unwrap().1;
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(events[0].1["choices"][0]["delta"]["role"], "assistant");
    let mut text = String::new();
    for (_, chunk) in &events {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["usage"], Value::Null);
        text += chunk["choices"][0]["delta"]["content"].as_str().unwrap();
    }
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert!(events.len() > 2);
}

#[test]
fn what_else_was_probable_is_told() {
    let mut body = json!({"messages": [{"role": "user", "content": "What has four legs?"}],
                          "temperature": 0, "max_tokens": -1, "logprobs": true, "top_logprobs": 3});
    let whole = SHARED.ok("/v1/chat/completions", body.clone());
    let tokens = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert!(!tokens.is_empty());
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(
            (top.len(), &top[0]["token"], &top[0]["logprob"]),
            (3, &token["token"], &token["logprob"])
        );
        assert!(token["logprob"].as_f64() <= Some(0.0) && token["bytes"].is_array());
    }
    body["stream"] = json!(true);
    let events = SHARED.post("/v1/chat/completions", body).events();
    let streamed = events.iter().filter_map(|(_, chunk)| {
        let tokens = chunk["choices"][0]["logprobs"]["content"].as_array()?;
        Some(tokens.clone())
    });
    assert_eq!(&streamed.flatten().collect::<Vec<_>>(), tokens);
}

#[test]
fn limits_of_every_size_are_taken() {
    for limit in [json!(-1), json!(1e16), json!(u64::MAX), Value::Null] {
        let body = json!({"messages": [{"role": "user", "content": "What has four legs?"}],
                          "temperature": 0, "max_tokens": limit});
        let answer = SHARED.ok("/v1/chat/completions", body);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn several_replies_have_seeds_of_their_own() {
    let body = |n: usize, seed: u64| {
        json!({"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What has four legs?"}],
               "temperature": 3.0, "seed": seed, "n": n, "max_completion_tokens": 12.0})
    };
    let texts = |answer: Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap().clone();
        let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_string();
        choices.iter().map(text).collect()
    };
    let three = texts(SHARED.ok("/v1/chat/completions", body(3, 5)));
    assert_eq!(three.len(), 3);
    assert_eq!(
        texts(SHARED.ok("/v1/chat/completions", body(1, 7))),
        three[2..]
    );
    assert!(three[0] != three[1] || three[1] != three[2], "{three:?}");
}

#[test]
fn replies_hold_pictures_where_they_are_asked_for() {
    let body = json!({"messages": [{"role": "user", "content": "a red heart on a blue background"}],
                      "modalities": ["image", "text"], "temperature": 0});
    let answer = SHARED.ok("/v1/chat/completions", body);
    let message = &answer["choices"][0]["message"];
    assert!(message["content"].is_string());
    for image in message["images"].as_array().into_iter().flatten() {
        let url = image["image_url"]["url"].as_str().unwrap();
        assert!(url.starts_with("data:image/png;base64,"));
    }
}

#[test]
fn a_client_that_hangs_up_stops_its_request() {
    let server = start(Options::default());
    let client = Client::of(&server);
    // Minutes of work.
    let body = json!({"prompt": "a dog", "n": 64, "stream": true, "partial_images": 2}).to_string();
    let request = format!(
        "POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for read_first in [true, false] {
        let mut stream = client.raw(request.as_bytes());
        if read_first {
            let mut begun = [0; 300];
            stream.read_exact(&mut begun).unwrap();
            assert!(begun.starts_with(b"HTTP/1.1 200"));
        } else {
            while client.metric("vila_u_requests_unfinished") == 0.0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        drop(stream);
        client.wait_until_idle(Duration::from_secs(5));
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn wrong_conversations_are_explained() {
    let error = |body: Value| SHARED.error("/v1/chat/completions", body);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    // Nothing of them is read.
    let image = json!({"type": "image_url", "image_url": "data:,"});
    let video = json!({"type": "image_url", "image_url": {"url": "data:video/mp4,"}});
    for (body, expected) in [
        (json!({}), "messages"),
        (json!({"messages": []}), "at least one"),
        (json!({"messages": "hello"}), "messages"),
        (
            json!({"messages": [{"role": "cat", "content": "x"}]}),
            "role",
        ),
        (json!({"messages": user(json!(7))}), "text"),
        (
            json!({"messages": user(json!([{"type": "audio"}]))}),
            "image_url",
        ),
        (
            json!({"messages": user(json!([{"type": "image_url"}]))}),
            "image_url",
        ),
        (
            json!({"messages": user(json!([{"type": "image_url", "image_url": "http://127.0.0.1/a.png"}]))}),
            "--allow-remote-media",
        ),
        (
            json!({"messages": user(json!([{"type": "image_url", "image_url": "file:///etc/passwd"}]))}),
            "--media-path",
        ),
        (
            json!({"messages": user(json!([{"type": "image_url", "image_url": "data:image/png;base64,AAAA"}]))}),
            "not an image",
        ),
        (
            json!({"messages": user(json!([{"type": "video_url", "video_url": {"url": picture_url().replace("image/png", "video/mp4")[..60]}}]))}),
            "",
        ),
        (json!({"messages": user(json!("x")), "n": 0}), "n is 0"),
        (json!({"messages": user(json!("x")), "n": -3}), "n:"),
        (
            json!({"messages": user(json!("x")), "max_tokens": 0}),
            "at least 1",
        ),
        (
            json!({"messages": user(json!("x")), "temperature": -1}),
            "temperature",
        ),
        (
            json!({"messages": user(json!("x")), "temperature": "hot"}),
            "temperature",
        ),
        (json!({"messages": user(json!("x")), "top_p": 7}), "top-p"),
        (
            json!({"messages": user(json!("x")), "top_logprobs": 21}),
            "20",
        ),
        (
            json!({"messages": user(json!("x")), "stop": "y".repeat(2000)}),
            "1024",
        ),
        (
            json!({"messages": vec![json!({"role": "user", "content": ""}); 100_000]}),
            "fewer",
        ),
        (
            json!({"messages": user(json!("long ".repeat(1_000_000)))}),
            "send less",
        ),
        (json!({"messages": user(json!(vec![image; 1000]))}), "fewer"),
        (json!({"messages": user(json!(vec![video; 1000]))}), "fewer"),
    ] {
        let (status, message) = error(body.clone());
        assert_eq!(status, 400, "{body}: {message}");
        assert!(message.contains(expected), "{body}: {message}");
    }
    // Also where it would stream.
    let (status, _) =
        error(json!({"messages": user(json!("x")), "temperature": -1, "stream": true}));
    assert_eq!(status, 400);
}
