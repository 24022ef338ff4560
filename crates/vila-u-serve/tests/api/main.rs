//! The server over real sockets, with the small model, as clients use it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bad_input;
mod chat;
mod codes;
mod images;
mod limits;
mod media;
mod mixed;
mod options;
mod page;
mod sdapi;
mod videos;

use std::{
    io::{Cursor, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::LazyLock,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use ureq::Agent;
use vila_u::{
    Pipeline,
    image::{self, ImageFormat, Rgb, RgbImage},
};
use vila_u_serve::{Options, Server};

/// A server that most tests share.
static SHARED: LazyLock<Client> = LazyLock::new(|| {
    let server = start(Options::default());
    let client = Client::of(&server);
    // It lives as long as the tests.
    std::mem::forget(server);
    client
});

fn start(options: Options) -> Server {
    let server = Server::bind(Options { port: 0, ..options }).unwrap();
    server
        .serve(Pipeline::from_pretrained("nano").unwrap())
        .unwrap();
    server
}

#[derive(Clone)]
struct Client {
    address: SocketAddr,
    agent: Agent,
}

/// An answer.
struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: Vec<u8>,
}

impl Client {
    fn of(server: &Server) -> Self {
        let config = Agent::config_builder().http_status_as_error(false);
        Self {
            address: server.address(),
            agent: config.build().new_agent(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Answer {
        Answer::of(self.agent.get(self.url(path)).call().unwrap())
    }

    fn delete(&self, path: &str) -> Answer {
        Answer::of(self.agent.delete(self.url(path)).call().unwrap())
    }

    fn post(&self, path: &str, body: Value) -> Answer {
        let request = self.agent.post(self.url(path));
        let request = request.content_type("application/json");
        Answer::of(request.send(body.to_string()).unwrap())
    }

    /// Of an answer that is none but 200.
    fn ok(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The status and message of an error, whose shape is checked.
    fn error(&self, path: &str, body: Value) -> (u16, String) {
        self.post(path, body).error()
    }

    /// What is sent is given back as it comes.
    fn raw(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(request).unwrap();
        stream
    }

    /// The value of a metric without labels.
    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap().parse().unwrap()
    }

    /// Waits until the model has nothing to do.
    fn wait_until_idle(&self, most: Duration) {
        let started = Instant::now();
        while self.metric("vila_u_requests_unfinished") > 0.0 {
            assert!(started.elapsed() < most, "still busy");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Answer {
    fn of(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let mut body = Vec::new();
        let mut reader = response.body_mut().as_reader();
        reader.read_to_end(&mut body).unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn error(&self) -> (u16, String) {
        let error = &self.json()["error"];
        let message = error["message"].as_str().unwrap();
        assert!(
            error["type"].is_string() && !message.contains('\n'),
            "{error}"
        );
        assert!(
            error.get("param").is_some() && error.get("code").is_some(),
            "{error}"
        );
        (self.status, message.to_string())
    }

    /// Names and data of server-sent events.
    fn events(&self) -> Vec<(String, Value)> {
        assert_eq!(self.header("content-type"), "text/event-stream");
        let text = self.text();
        let blocks = text.split("\n\n").filter(|block| block.contains("data: "));
        let event = |block: &str| {
            let line = |start: &str| block.lines().find_map(|line| line.strip_prefix(start));
            let data = line("data: ").unwrap();
            let data = serde_json::from_str(data).unwrap_or(Value::String(data.into()));
            (line("event: ").unwrap_or_default().to_string(), data)
        };
        blocks.map(event).collect()
    }
}

/// A red square on blue.
fn picture() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        let inside = (20..44).contains(&x) && (20..44).contains(&y);
        Rgb(if inside { [220, 30, 40] } else { [40, 70, 210] })
    })
}

fn file(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn data_url(mime: &str, bytes: &[u8]) -> String {
    format!("data:{mime};base64,{}", STANDARD.encode(bytes))
}

fn picture_url() -> String {
    data_url("image/png", &file(&picture(), ImageFormat::Png))
}

/// A picture of an answer.
fn decoded(base64: &Value) -> RgbImage {
    let bytes = STANDARD.decode(base64.as_str().unwrap()).unwrap();
    image::load_from_memory(&bytes).unwrap().into_rgb8()
}
