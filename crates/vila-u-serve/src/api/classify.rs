//! `/v1/classify`: how well each label describes a picture.

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vila_u::media::preprocess::ResizeMode;

use crate::{
    app::Shared,
    body::Json,
    errors::{ApiError, Errors, json},
    media,
};

/// Labels of one request, which are read in one go while all others wait.
const MAX_LABELS: usize = 64;

#[derive(Deserialize, ToSchema)]
pub struct ClassifyRequest {
    /// A URL, of which data URLs are always read
    image: String,
    /// Descriptions, at least two
    labels: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct Classified {
    /// In the order of the request; the probabilities are 1 together
    labels: Vec<Label>,
}

#[derive(Serialize, ToSchema)]
struct Label {
    label: String,
    probability: f32,
}

/// Zero-shot classification of a picture
#[utoipa::path(post, path = "/v1/classify", tag = "embeddings", request_body = ClassifyRequest, responses((status = 200, description = "How probable each label is", body = Classified), Errors))]
pub async fn classify(
    State(app): State<Shared>,
    Json(request, _held): Json<ClassifyRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let labels = request.labels;
    if !(2..=MAX_LABELS).contains(&labels.len()) {
        let message = format!("{} labels: send 2 to {MAX_LABELS}", labels.len());
        return Err(ApiError::invalid(message).param("labels"));
    }
    model
        .card
        .check_text(labels.iter().map(String::len).sum(), "labels")?;
    let size = model.card.image_size;
    let picture = media::picture(&app, request.image, ResizeMode::Stretch, size, "image").await?;
    let slot = model.worker.slot()?;
    let labels = model.worker.call(&slot, move |pipeline| {
        let probabilities = pipeline.classify(picture, &labels)?;
        let all = labels.into_iter().zip(probabilities);
        Ok(all
            .map(|(label, probability)| Label { label, probability })
            .collect())
    });
    Ok(json(&Classified {
        labels: labels.await?,
    }))
}
