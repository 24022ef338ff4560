//! What is said of every request: an id in its answer, a line of JSON on standard error, and the counters of it.

use std::{
    io::Write,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue},
    middleware::Next,
    response::Response,
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde_json::json;

use crate::app::{Shared, new_id};

const REQUEST_ID: &str = "x-request-id";
/// Longer ones of clients are replaced.
const MAX_ID: usize = 128;
/// Characters of a path that are written.
const MAX_PATH: usize = 200;

/// Who sent a request.
#[derive(Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Around everything else.
pub async fn log(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let entry = Entry {
        id: id.clone(),
        peer: request.extensions().get().map(|peer: &Peer| peer.0),
        method: request.method().to_string(),
        path: request.uri().path().chars().take(MAX_PATH).collect(),
        route: route(&request),
        status: 0,
        bytes: 0,
        whole: false,
        started: Instant::now(),
        app,
    };
    entry.app.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    // A client that hangs up drops this future, and the entry with it.
    let mut entry = entry;
    let mut response = next.run(request).await;
    entry.status = response.status().as_u16();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(|body| Body::new(Logged { body, entry }))
}

/// What is no request, and was refused before it came here.
pub fn malformed(app: &Shared, peer: SocketAddr, error: &hyper::Error) {
    if !error.is_parse() {
        return;
    }
    app.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    drop(Entry {
        app: app.clone(),
        id: new_id("req_"),
        peer: Some(peer),
        method: String::new(),
        path: String::new(),
        route: "malformed".into(),
        status: if error.is_parse_too_large() { 431 } else { 400 },
        bytes: 0,
        whole: true,
        started: Instant::now(),
    });
}

fn route(request: &Request) -> String {
    let route = request.extensions().get::<MatchedPath>();
    route.map_or("other", MatchedPath::as_str).to_string()
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let sane = |id: &&str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        (1..=MAX_ID).contains(&id.len()) && id.chars().all(known)
    };
    given
        .filter(sane)
        .map_or_else(|| new_id("req_"), String::from)
}

/// What is written when the last byte of an answer is, or when it is given up.
struct Entry {
    app: Shared,
    id: String,
    peer: Option<SocketAddr>,
    method: String,
    path: String,
    route: String,
    /// 0 where the client left before there was any.
    status: u16,
    bytes: u64,
    whole: bool,
    started: Instant,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let metrics = &self.app.metrics;
        metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        // What others write: 499 is a client that did not wait.
        let status = if self.status == 0 { 499 } else { self.status };
        metrics.request(&self.route, status);
        metrics.answered.observe(self.started.elapsed());
        if !self.app.options.access_log {
            return;
        }
        let line = json!({
            "time": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            "id": self.id,
            "client": self.peer.map(|peer| peer.ip().to_string()),
            "method": self.method,
            "path": self.path,
            "status": status,
            "bytes": self.bytes,
            "ms": self.started.elapsed().as_millis() as u64,
            "complete": self.whole,
        });
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// A body with the entry that ends with it.
struct Logged {
    body: Body,
    entry: Entry,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.entry.bytes += bytes as u64;
                this.entry.whole = this.body.is_end_stream();
            }
            Poll::Ready(None) => this.entry.whole = true,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
