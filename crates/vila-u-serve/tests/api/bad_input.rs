//! What no client should send.

use std::io::{Read, Write};

use serde_json::json;

use super::{Answer, Client, Options, SHARED, start};

fn post(path: &str, kind: Option<&str>, body: &[u8]) -> Answer {
    let mut request = SHARED.agent.post(SHARED.url(path));
    if let Some(kind) = kind {
        request = request.content_type(kind);
    }
    Answer::of(request.send(body).unwrap())
}

const POSTS: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/images/generations",
    "/v1/videos",
    "/v1/embeddings",
    "/v1/encode",
    "/v1/decode",
    "/v1/reconstruct",
    "/v1/classify",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/options",
];

#[test]
fn what_is_no_json_is_refused_everywhere() {
    let deep = "[".repeat(100_000);
    for path in POSTS {
        for body in [
            &b""[..],
            b"{",
            b"nothing",
            b"{\"a\": \xff\xfe}",
            b"{} {}",
            b"{\"prompt\": \"\xed\xa0\x80\"}",
            b"[1, 2]",
            b"null",
            b"7",
            deep.as_bytes(),
        ] {
            let answer = post(path, Some("application/json; charset=utf-8"), body);
            let (status, message) = answer.error();
            assert_eq!(status, 400, "{path}: {message}");
        }
        let (status, message) = post(path, Some("text/plain"), b"{}").error();
        assert!(
            status == 415 && message.contains("application/json"),
            "{path}: {message}"
        );
    }
}

/// Each value of a list takes more memory than its JSON.
#[test]
fn bodies_of_millions_of_values_are_refused() {
    let zeros = format!("[0{}]", ",0".repeat(2 << 20));
    let messages = format!("[{{}}{}]", ",{}".repeat(1 << 20));
    for (path, body) in [
        ("/v1/decode", format!("{{\"codes\": {zeros}}}")),
        ("/v1/embeddings", format!("{{\"input\": {zeros}}}")),
        ("/sdapi/v1/options", format!("{{\"a\": {zeros}}}")),
        (
            "/v1/chat/completions",
            format!("{{\"messages\": {messages}}}"),
        ),
    ] {
        let answer = post(path, Some("application/json"), body.as_bytes());
        let (status, message) = answer.error();
        assert!(
            status == 400 && message.contains("values"),
            "{path}: {message}"
        );
    }
}

#[test]
fn unknown_paths_and_methods_are_named() {
    let (status, message) = SHARED.get("/v1/secrets").error();
    assert!(status == 404 && message.contains("/v1/secrets"));
    assert_eq!(SHARED.get("/assets/..%2f..%2fCargo.toml").error().0, 404);
    assert_eq!(SHARED.post("/", json!({})).error().0, 405);
    for path in [
        "/v1/videos?limit=-1",
        "/v1/videos?limit=x",
        "/v1/videos/%ff",
        "/assets/%ff",
    ] {
        assert_eq!(SHARED.get(path).error().0, 400, "{path}");
    }
    for path in POSTS
        .into_iter()
        .filter(|path| !path.ends_with("/videos") && !path.ends_with("/options"))
    {
        assert_eq!(SHARED.get(path).error().0, 405, "{path}");
        assert_eq!(SHARED.delete(path).error().0, 405, "{path}");
    }
}

#[test]
fn every_answer_has_an_id() {
    assert!(
        SHARED
            .get("/health")
            .header("x-request-id")
            .starts_with("req_")
    );
    let with = |id: &str| {
        let request = SHARED
            .agent
            .get(SHARED.url("/nothing"))
            .header("x-request-id", id);
        Answer::of(request.call().unwrap())
            .header("x-request-id")
            .to_string()
    };
    assert_eq!(with("mine-1.2:3_4"), "mine-1.2:3_4");
    for insane in ["a b", "\"", &"x".repeat(200), ""] {
        assert!(with(insane).starts_with("req_"), "{insane}");
    }
}

/// Whatever comes before a request is one ends that connection, and nothing else.
#[test]
fn broken_requests_end_their_connection() {
    let server = start(Options::default());
    let client = Client::of(&server);
    let lines = "x-a: b\r\n".repeat(10_000);
    let many = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n");
    let long = format!(
        "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "a".repeat(200_000)
    );
    for request in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        many.as_bytes(),
        long.as_bytes(),
    ] {
        let mut stream = std::net::TcpStream::connect(client.address).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        // It may be closed before all is written.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert_eq!(client.get("/health").status, 200);
    }
    let metrics = client.get("/metrics").text();
    for counted in [
        "vila_u_requests_total{route=\"malformed\",status=\"400\"} 5",
        "vila_u_requests_total{route=\"malformed\",status=\"431\"} 2",
    ] {
        assert!(metrics.contains(counted), "{metrics}");
    }
    assert_eq!(server.stop(), 0);
}
