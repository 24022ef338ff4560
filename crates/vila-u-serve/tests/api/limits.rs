//! Bounds of size, number and time.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Client, Options, SHARED, start};

#[test]
fn bodies_are_bounded() {
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let said = format!("{head}content-length: 99999999999\r\n\r\n{{");
    let mut answer = [0; 12];
    SHARED.raw(said.as_bytes()).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    // One that does not say how long it is.
    let mut stream = SHARED.raw(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes());
    let piece = [b"100000\r\n".as_slice(), &[b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..66 {
        if stream.write_all(&piece).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 413"));
}

/// Four take all the memory that there is for bodies.
#[test]
fn slow_large_bodies_do_not_keep_small_ones_out() {
    let server = start(Options::default());
    let client = Client::of(&server);
    let megabytes = 63;
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        64 << 20
    );
    let piece = vec![b' '; megabytes << 20];
    let slow: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = client.raw(head.as_bytes());
            stream.write_all(&piece).unwrap();
            stream
        })
        .collect();
    let large = json!({"input": "x", "padding": " ".repeat(8 << 20)});
    let mut status = 200;
    for _ in 0..100 {
        status = client.post("/v1/embeddings", large.clone()).status;
        if status == 429 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status, 429);
    client.ok("/v1/embeddings", json!({"input": "x"}));
    drop(slow);
    assert_eq!(server.stop(), 0);
}

/// Whatever it holds, a request takes one place.
#[test]
fn many_inputs_of_a_request_wait_as_one() {
    let server = start(Options {
        max_queue: 1,
        ..Options::default()
    });
    let client = Client::of(&server);
    let answer = client.ok("/v1/embeddings", json!({"input": vec!["a dog"; 20]}));
    assert_eq!(answer["data"].as_array().unwrap().len(), 20);
    assert_eq!(server.stop(), 0);
}

#[test]
fn hundreds_of_clients_may_stay_connected() {
    let idle: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(SHARED.address).unwrap())
        .collect();
    let half: Vec<TcpStream> = (0..50)
        .map(|_| SHARED.raw(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"))
        .collect();
    assert_eq!(SHARED.get("/health").status, 200);
    SHARED.ok("/v1/embeddings", json!({"input": "a dog"}));
    while SHARED.metric("vila_u_connections") < 350.0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((idle, half));
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = start(Options {
        max_queue: 2,
        drain: Duration::ZERO,
        ..Options::default()
    });
    let client = Client::of(&server);
    let body = json!({"prompt": "a dog", "n": 64}).to_string();
    let request = format!(
        "POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut long, mut refused) = (Vec::new(), None);
    // Until there is more than runs at once.
    for _ in 0..40 {
        long.push(client.raw(request.as_bytes()));
        std::thread::sleep(Duration::from_millis(20));
        let answer = client.post("/v1/embeddings", json!({"input": "x"}));
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    if let Some(refused) = refused {
        assert!(refused.error().1.contains("--max-queue"));
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 0);
        assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    } else {
        panic!("nothing was refused");
    }
    assert_eq!(client.get("/health").status, 200);
    drop(long);
    client.wait_until_idle(Duration::from_secs(5));
    client.ok("/v1/embeddings", json!({"input": "x"}));
    server.stop();
}

#[test]
fn what_is_counted_is_told() {
    SHARED.ok("/v1/embeddings", json!({"input": "a dog"}));
    SHARED.ok("/v1/images/generations", json!({"prompt": "a dog"}));
    let answer = SHARED.get("/metrics");
    assert!(
        answer
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let text = answer.text();
    for expected in [
        "vila_u_requests_total{route=\"/v1/embeddings\",status=\"200\"}",
        "vila_u_time_to_first_token_seconds_bucket{le=\"+Inf\"}",
        "# TYPE vila_u_queue_length gauge",
        "# TYPE vila_u_requests_running gauge",
        "vila_u_tokens_per_second",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(SHARED.metric("vila_u_time_to_first_token_seconds_count") >= 1.0);
    assert_eq!(SHARED.get("/health").json(), json!({"status": "ok"}));
    assert_eq!(SHARED.get("/ready").status, 200);
    let models = SHARED.get("/v1/models").json();
    let model = &models["data"][0];
    assert_eq!(
        (&model["id"], &model["code_shape"]),
        (&json!("nano"), &json!([8, 8, 4]))
    );
    assert_eq!(SHARED.get("/v1/models/gpt-4").json()["id"], model["id"]);
    assert_eq!(
        SHARED.get("/v1/models/owner/name").json()["id"],
        model["id"]
    );
    assert_ne!(model["defaults"]["cfg"], Value::Null);
}
