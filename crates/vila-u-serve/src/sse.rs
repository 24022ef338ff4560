//! Server-sent events: answers that are told piece by piece.

use std::{convert::Infallible, future::Future, time::Duration};

use axum::{
    http::HeaderValue,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::errors::ApiError;

/// Events between who makes them and the connection.
const AHEAD: usize = 16;
/// A comment is sent where nothing else is for so long, so that nobody on the way takes the answer for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where events are put.
#[derive(Clone)]
pub struct Sender(mpsc::Sender<Event>);

impl Sender {
    pub async fn data(&self, value: &impl Serialize) -> Result<(), ApiError> {
        self.put(Event::default(), value).await
    }

    pub async fn event(&self, name: &str, value: &impl Serialize) -> Result<(), ApiError> {
        self.put(Event::default().event(name), value).await
    }

    /// What OpenAI's streams of text end with.
    pub async fn done(&self) -> Result<(), ApiError> {
        self.send(Event::default().data("[DONE]")).await
    }

    async fn put(&self, event: Event, value: &impl Serialize) -> Result<(), ApiError> {
        let text = serde_json::to_string(value);
        let text = text.map_err(|error| ApiError::failed(error.to_string()))?;
        self.send(event.data(text)).await
    }

    async fn send(&self, event: Event) -> Result<(), ApiError> {
        let sent = self.0.send(event).await;
        sent.map_err(|_| ApiError::failed("the client is gone"))
    }
}

/// A stream of what `work` puts into its sender; its error is the last event. When the client is gone, `work` is
/// dropped where it is.
pub fn stream<F>(work: impl FnOnce(Sender) -> F) -> Response
where
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    let sender = Sender(sender);
    let work = work(sender.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = sender.0.closed() => {}
            result = work => if let Err(error) = result {
                let _ = sender.data(&error.body()).await;
            }
        }
    });
    let events = stream::unfold(receiver, |mut receiver| async {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // nginx would collect them.
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", no);
    response
}
