//! `/v1/videos`: videos from a text, as jobs that are asked about until they are done.

mod jobs;

use std::sync::{Arc, Mutex};

use axum::{
    body::Body,
    extract::{FromRequest, Multipart, Request, State},
    http::header,
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use vila_u::engine::{self, Generation, VisualKind};

use super::{
    files,
    sampling::{self, SamplingParams},
};
use crate::{
    app::Shared,
    body::{self, Json},
    errors::{ApiError, Errors, json},
    extract::{Path, Query},
    lenient,
    pictures::Binary,
};

pub use jobs::Jobs;
use jobs::{Status, Video, follow, frames, lock};

#[derive(Deserialize, ToSchema)]
pub struct VideoRequest {
    prompt: String,
    /// The same seed gives the same video; -1 is a new one
    #[serde(default, deserialize_with = "lenient::seed")]
    seed: Option<u64>,
    /// Weight of classifier-free guidance; 1 turns it off
    cfg: Option<f64>,
    /// 0 takes the most probable codes
    temperature: Option<f64>,
    /// Only the most probable codes, so many; 0 is all of them
    #[serde(default, deserialize_with = "lenient::count")]
    top_k: Option<usize>,
    /// Only the fewest most probable codes with this total probability
    top_p: Option<f64>,
    /// Always take the most probable code
    greedy: Option<bool>,
}

/// Make a video
///
/// The answer is a job: ask for it until its status is `completed`, then for its content. `seconds` and `size` are
/// accepted, and are always the model's own.
#[utoipa::path(post, path = "/v1/videos", tag = "videos", request_body(content((VideoRequest = "application/json"), (VideoRequest = "multipart/form-data"))), responses((status = 200, description = "The job", body = Video), Errors))]
pub async fn create(State(app): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let request = read(&app, request).await?;
    let model = app.model()?;
    model.card.check_text(request.prompt.len(), "prompt")?;
    let seed = sampling::seed(request.seed);
    let events = model.worker.submit(vec![request.generation(seed)?])?;
    let video = Video::new(&model.card, &request.prompt, seed);
    let answer = json(&video);
    let video = Arc::new(Mutex::new(video));
    let task = tokio::spawn(follow(app.clone(), video.clone(), events));
    app.jobs.add(video, task.abort_handle());
    Ok(answer)
}

impl VideoRequest {
    fn generation(&self, seed: u64) -> Result<engine::Request, ApiError> {
        let wanted = SamplingParams {
            cfg: self.cfg,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            greedy: self.greedy,
        };
        let options = wanted.options(seed)?;
        Ok(engine::Request::Generate(Generation {
            prompt: self.prompt.clone(),
            kind: VisualKind::Video,
            options,
            index: 0,
            previews: 0,
        }))
    }
}

/// What a form may hold.
const FIELDS: [&str; 7] = [
    "prompt",
    "seed",
    "cfg",
    "temperature",
    "top_k",
    "top_p",
    "greedy",
];

/// JSON, or a form as OpenAI's clients send it.
async fn read(app: &Shared, request: Request) -> Result<VideoRequest, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let form = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/form-data"));
    if !form {
        let Json(request, _) = Json::from_request(request, app).await?;
        return Ok(request);
    }
    let (parts, content) = request.into_parts();
    let (bytes, _held) = body::read(app, &parts.headers, content).await?;
    let request = Request::from_parts(parts, Body::from(bytes));
    let wrong = |reason: String| ApiError::invalid(format!("the form cannot be read: {reason}"));
    let form = Multipart::from_request(request, app).await;
    let mut form = form.map_err(|error| wrong(error.body_text()))?;
    let mut fields = Map::new();
    while let Some(field) = form
        .next_field()
        .await
        .map_err(|error| wrong(error.body_text()))?
    {
        let name = field.name().unwrap_or_default().to_string();
        // Others are passed over: pictures to begin with are nothing that this model reads here.
        if !FIELDS.contains(&name.as_str()) {
            continue;
        }
        let text = field
            .text()
            .await
            .map_err(|error| wrong(error.body_text()))?;
        let value = match name.as_str() {
            "prompt" => Value::String(text),
            _ => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        };
        fields.insert(name, value);
    }
    body::parse(Value::Object(fields).to_string().as_bytes())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// The id of the last video of the page before
    after: Option<String>,
    limit: Option<usize>,
    /// `asc` for the oldest first
    order: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Videos {
    object: &'static str,
    data: Vec<Video>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// All videos, the newest first
#[utoipa::path(get, path = "/v1/videos", tag = "videos", params(Page), responses((status = 200, description = "Jobs", body = Videos), Errors))]
pub async fn list(
    State(app): State<Shared>,
    Query(page): Query<Page>,
) -> Result<Response, ApiError> {
    let mut all: Vec<Video> = {
        let jobs = app.jobs.lock();
        jobs.values().map(|job| lock(&job.video).clone()).collect()
    };
    if page.order.as_deref() != Some("asc") {
        all.reverse();
    }
    if let Some(after) = &page.after {
        let position = all.iter().position(|video| video.id == *after);
        let position = position.ok_or_else(|| jobs::unknown(after))?;
        all.drain(..=position);
    }
    let limit = page.limit.unwrap_or(20).clamp(1, 100);
    let has_more = all.len() > limit;
    all.truncate(limit);
    Ok(json(&Videos {
        object: "list",
        first_id: all.first().map(|video| video.id.clone()),
        last_id: all.last().map(|video| video.id.clone()),
        data: all,
        has_more,
    }))
}

/// A video's job
#[utoipa::path(get, path = "/v1/videos/{id}", tag = "videos", params(("id" = String, Path, description = "Of the job")), responses((status = 200, description = "The job", body = Video), Errors))]
pub async fn one(State(app): State<Shared>, Path(id): Path<String>) -> Result<Response, ApiError> {
    app.jobs.with(&id, |job| json(&*lock(&job.video)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Variant {
    /// `video` for an MP4, `frames` for a PNG with all frames in a row
    variant: Option<String>,
}

/// The video itself
#[utoipa::path(get, path = "/v1/videos/{id}/content", tag = "videos", params(("id" = String, Path, description = "Of the job"), Variant), responses((status = 200, description = "An MP4, or a PNG", content((Binary = "video/mp4"), (Binary = "image/png"))), Errors))]
pub async fn content(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(variant): Query<Variant>,
) -> Result<Response, ApiError> {
    let (status, progress) = app.jobs.with(&id, |job| {
        let video = lock(&job.video);
        (video.status(), video.progress)
    })?;
    if status != Status::Completed {
        let message = match status {
            Status::Queued | Status::InProgress => {
                format!("the video is not finished ({progress} %): ask again later")
            }
            _ => "the video was not made: its job says why".into(),
        };
        return Err(ApiError::not_found(message));
    }
    let file = match variant.variant.as_deref() {
        None | Some("video") => app.files.get(&id),
        Some("frames" | "spritesheet" | "thumbnail") => app.files.get(&frames(&id)),
        Some(other) => {
            let message = format!("there is no variant {other:?}: ask for video or frames");
            return Err(ApiError::invalid(message).param("variant"));
        }
    };
    let gone =
        || ApiError::not_found("the video made room for newer ones: make it again with its seed");
    Ok(files::respond(file.ok_or_else(gone)?))
}

/// Stop making a video
#[utoipa::path(post, path = "/v1/videos/{id}/cancel", tag = "videos", params(("id" = String, Path, description = "Of the job")), responses((status = 200, description = "The job", body = Video), Errors))]
pub async fn cancel(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    app.jobs.with(&id, |job| {
        job.abort.abort();
        let mut video = lock(&job.video);
        video.end(Status::Cancelled);
        json(&*video)
    })
}

#[derive(Serialize, ToSchema)]
struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Stop making a video, and forget it
#[utoipa::path(delete, path = "/v1/videos/{id}", tag = "videos", params(("id" = String, Path, description = "Of the job")), responses((status = 200, description = "It is gone", body = Deleted), Errors))]
pub async fn delete(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    app.jobs.with(&id, |job| job.abort.abort())?;
    app.jobs.remove(&id);
    app.files.remove(&id);
    app.files.remove(&frames(&id));
    Ok(json(&Deleted {
        id,
        object: "video.deleted",
        deleted: true,
    }))
}
