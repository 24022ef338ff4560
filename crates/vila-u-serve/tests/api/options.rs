//! How a server is started, and how it ends.

use std::{
    io::Read,
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use vila_u::Pipeline;
use vila_u_serve::Server;

use super::{Answer, Client, Options, SHARED, start};

#[test]
fn a_key_opens_the_model() {
    let server = start(Options {
        api_key: Some("secret".into()),
        ..Options::default()
    });
    let client = Client::of(&server);
    let with = |path: &str, authorization: &str| {
        let request = client
            .agent
            .get(client.url(path))
            .header("authorization", authorization);
        Answer::of(request.call().unwrap())
    };
    for path in ["/v1/models", "/sdapi/v1/options", "/metrics", "/v1/nothing"] {
        let answer = client.get(path);
        let (status, message) = answer.error();
        assert!(
            status == 401 && message.contains("Authorization"),
            "{path}: {message}"
        );
        assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
        assert_eq!(with(path, "Bearer wrong").status, 401);
        assert_ne!(with(path, "Bearer secret").status, 401);
    }
    assert_eq!(
        with(
            "/sdapi/v1/options",
            &format!("Basic {}", STANDARD.encode("me:secret"))
        )
        .status,
        200
    );
    for path in ["/health", "/ready", "/", "/docs", "/openapi.json"] {
        assert_eq!(client.get(path).status, 200, "{path}");
    }
    assert_eq!(client.get("/v1/files/x/content").status, 404);
    assert_eq!(client.error("/v1/embeddings", json!({"input": "x"})).0, 401);
    assert_eq!(server.stop(), 0);
}

#[test]
fn pages_of_other_origins_need_permission() {
    let server = start(Options {
        cors: vec!["https://example.org/".into()],
        api_key: Some("secret".into()),
        ..Options::default()
    });
    let client = Client::of(&server);
    let preflight = |client: &Client, origin: &str| {
        let request = client.agent.options(client.url("/v1/chat/completions"));
        let request = request.header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let request = request.header(
            "access-control-request-headers",
            "authorization,content-type",
        );
        Answer::of(request.call().unwrap())
    };
    let allowed = preflight(&client, "https://example.org");
    assert_eq!(allowed.status, 200);
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        "https://example.org"
    );
    assert!(
        allowed
            .header("access-control-allow-headers")
            .contains("authorization")
    );
    assert_eq!(
        preflight(&client, "https://example.com").header("access-control-allow-origin"),
        ""
    );
    assert_eq!(
        preflight(&SHARED, "https://example.org").header("access-control-allow-origin"),
        ""
    );
    assert_eq!(server.stop(), 0);
}

#[test]
fn pages_of_others_are_refused() {
    let with = |client: &Client, name: &str, value: &str| {
        let body = "{\"prompt\": \"a dog\"}";
        let request = format!(
            "POST /v1/videos HTTP/1.1\r\n{name}: {value}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        let mut stream = client.raw(request.as_bytes());
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let own = format!("localhost\r\norigin: http://{}", "localhost");
    assert!(with(&SHARED, "host", &own).starts_with("HTTP/1.1 200"));
    let foreign = with(&SHARED, "host", "localhost\r\norigin: https://example.org");
    assert!(
        foreign.starts_with("HTTP/1.1 403") && foreign.contains("--cors https://example.org"),
        "{foreign}"
    );
    // A name that somebody else points here.
    let rebound = with(&SHARED, "host", "example.org:8000");
    assert!(
        rebound.starts_with("HTTP/1.1 403") && rebound.contains("--api-key"),
        "{rebound}"
    );
    let server = start(Options {
        cors: vec!["https://example.org".into()],
        ..Options::default()
    });
    let client = Client::of(&server);
    let permitted = with(
        &client,
        "host",
        "example.org\r\norigin: https://example.org",
    );
    assert!(permitted.starts_with("HTTP/1.1 200"), "{permitted}");
    server.stop();
}

#[test]
fn a_server_without_its_model_lives_but_is_not_ready() {
    let server = Server::bind(Options {
        port: 0,
        ..Options::default()
    })
    .unwrap();
    let client = Client::of(&server);
    assert_eq!(client.get("/health").status, 200);
    for answer in [
        client.get("/ready"),
        client.get("/v1/models"),
        client.post("/v1/embeddings", json!({"input": "x"})),
    ] {
        let (status, message) = answer.error();
        assert!(status == 503 && message.contains("loaded"), "{message}");
        assert!(!answer.header("retry-after").is_empty());
    }
    let vision = Pipeline::builder("nano").vision_only().build().unwrap();
    assert!(server.serve(vision).is_err());
    server
        .serve(Pipeline::from_pretrained("nano").unwrap())
        .unwrap();
    assert_eq!(client.get("/ready").status, 200);
    let port = server.address().port();
    let taken = Server::bind(Options {
        port,
        ..Options::default()
    });
    let message = taken.err().unwrap().to_string();
    assert!(
        message.contains("in use") && message.contains("--port"),
        "{message}"
    );
    let nowhere = Server::bind(Options {
        port: 0,
        host: "203.0.113.7".into(),
        ..Options::default()
    });
    assert!(nowhere.err().unwrap().to_string().contains("--host"));
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_runs_is_finished_before_the_end() {
    let server = start(Options::default());
    let client = Client::of(&server);
    let generation = {
        let client = client.clone();
        spawn(move || client.post("/v1/images/generations", json!({"prompt": "a dog", "n": 4})))
    };
    let video = client.ok("/v1/videos", json!({"prompt": "a dog"}));
    while client.metric("vila_u_requests_unfinished") < 5.0 {
        sleep(Duration::from_millis(5));
    }
    assert!(video["id"].is_string());
    // A connection that is open already is told.
    let mut open = client.raw(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n");
    sleep(Duration::from_millis(50));
    let ending = spawn(move || server.stop());
    sleep(Duration::from_millis(50));
    let _ = std::io::Write::write_all(&mut open, b"\r\n");
    let mut answer = String::new();
    let _ = open.read_to_string(&mut answer);
    assert!(
        answer.is_empty() || answer.contains("503") && answer.contains("shutting down"),
        "{answer}"
    );
    assert_eq!(generation.join().unwrap().status, 200);
    assert_eq!(ending.join().unwrap(), 0);
    assert!(client.agent.get(client.url("/health")).call().is_err());
}

#[test]
fn what_takes_too_long_is_cut_off() {
    let server = start(Options {
        drain: Duration::from_millis(100),
        ..Options::default()
    });
    let client = Client::of(&server);
    let generation = {
        let client = client.clone();
        spawn(move || {
            client
                .agent
                .post(client.url("/v1/images/generations"))
                .content_type("application/json")
                .send(json!({"prompt": "a dog", "n": 64}).to_string())
        })
    };
    while client.metric("vila_u_requests_unfinished") < 64.0 {
        sleep(Duration::from_millis(5));
    }
    let started = Instant::now();
    assert!(server.stop() > 0);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(generation.join().unwrap().is_err());
}
