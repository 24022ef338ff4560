//! Whether the server lives, whether it can be used, and what it counts.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::Shared,
    errors::{ApiError, Errors, json},
    worker::Worker,
};

#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

/// Whether the server lives
#[utoipa::path(get, path = "/health", tag = "server", responses((status = 200, description = "It does", body = Health)))]
pub async fn health() -> Response {
    json(&Health { status: "ok" })
}

/// Whether the model is loaded and takes requests
#[utoipa::path(get, path = "/ready", tag = "server", responses((status = 200, description = "It does", body = Health), Errors))]
pub async fn ready(State(app): State<Shared>) -> Result<Response, ApiError> {
    app.model()?;
    Ok(json(&Health { status: "ready" }))
}

/// What the server counts, in the text format of Prometheus
#[utoipa::path(get, path = "/metrics", tag = "server", responses((status = 200, description = "Counters, gauges and histograms", body = String, content_type = "text/plain"), Errors))]
pub async fn metrics(State(app): State<Shared>) -> Response {
    let worker = app.loaded().map(|loaded| &loaded.worker);
    let text = app.metrics.text(
        worker.map_or(0, Worker::waiting),
        worker.map_or(0, Worker::unfinished),
    );
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}
