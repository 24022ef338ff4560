//! `/v1/embeddings`: texts and pictures as unit vectors of one space.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vila_u::media::preprocess::ResizeMode;

use crate::{
    app::{Loaded, Shared},
    body::Json,
    errors::{ApiError, Errors, json},
    lenient,
    media::{self, Address},
    pictures::base64,
    worker::QueueSlot,
};

/// Inputs of one request.
const MAX_INPUTS: usize = 2048;

#[derive(Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    input: Inputs,
    encoding_format: Option<EncodingFormat>,
    /// None other than the model's own
    #[serde(default, deserialize_with = "lenient::count")]
    dimensions: Option<usize>,
}

#[derive(Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "write a text, {\"type\": \"image_url\", \"image_url\": {\"url\": ...}}, or a list of these"
)]
enum Inputs {
    One(Input),
    Many(Vec<Input>),
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum Input {
    Text(String),
    Picture { image_url: Address },
    Part { text: String },
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    Float,
    /// Little-endian f32
    Base64,
}

#[derive(Serialize, ToSchema)]
struct Embeddings {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize, ToSchema)]
#[schema(as = EmbeddingUsage)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Embed texts and pictures
///
/// Texts and pictures share one space: the dot product of two vectors says how well they match.
#[utoipa::path(post, path = "/v1/embeddings", tag = "embeddings", request_body = EmbeddingRequest, responses((status = 200, description = "A unit vector for each input", body = Embeddings), Errors))]
pub async fn embed(
    State(app): State<Shared>,
    Json(request, _held): Json<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let inputs = match request.input {
        Inputs::One(input) => vec![input],
        Inputs::Many(inputs) => inputs,
    };
    if inputs.is_empty() || inputs.len() > MAX_INPUTS {
        let message = format!("{} inputs: send 1 to {MAX_INPUTS}", inputs.len());
        return Err(ApiError::invalid(message).param("input"));
    }
    let slot = model.worker.slot()?;
    let mut usage = Usage {
        prompt_tokens: 0,
        total_tokens: 0,
    };
    let mut data = Vec::new();
    for (index, input) in inputs.into_iter().enumerate() {
        let (vector, tokens) = one(&app, model, &slot, index, input).await?;
        usage.prompt_tokens += tokens;
        if let Some(asked) = request.dimensions.filter(|asked| *asked != vector.len()) {
            let message = format!(
                "dimensions is {asked}, and this model's are {}: leave it out",
                vector.len()
            );
            return Err(ApiError::invalid(message).param("dimensions"));
        }
        data.push(Embedding {
            object: "embedding",
            index,
            embedding: if request.encoding_format == Some(EncodingFormat::Base64) {
                let bytes: Vec<u8> = vector
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                Vector::Base64(base64(&bytes))
            } else {
                Vector::Float(vector)
            },
        });
    }
    usage.total_tokens = usage.prompt_tokens;
    Ok(json(&Embeddings {
        object: "list",
        data,
        model: model.card.id.clone(),
        usage,
    }))
}

/// The vector of an input, and the tokens that it took.
async fn one(
    app: &Shared,
    model: &Loaded,
    slot: &Arc<QueueSlot>,
    index: usize,
    input: Input,
) -> Result<(Vec<f32>, usize), ApiError> {
    let Loaded { worker, card } = model;
    let at = format!("input[{index}]");
    let url = match input {
        Input::Text(text) | Input::Part { text } => {
            card.check_text(text.len(), &at)?;
            let work = move |pipeline: &vila_u::Pipeline| {
                let tokens = pipeline.checkpoint()?.tokenizer.encode(&text).len();
                Ok((pipeline.embed_text(&text)?, tokens))
            };
            return worker.call(slot, work).await;
        }
        Input::Picture { image_url } => image_url.url(),
    };
    let picture = media::picture(app, url, ResizeMode::Stretch, card.image_size, &at).await?;
    let vector = worker
        .call(slot, |pipeline| pipeline.embed_image(picture))
        .await?;
    let [rows, columns, _] = card.code_shape;
    Ok((vector, rows * columns))
}
