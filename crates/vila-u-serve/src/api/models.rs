//! `/v1/models`: what is served.

use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;
use vila_u::{
    Pipeline, checkpoint, device, generation::sampling::Sampling, media::preprocess::ResizeMode,
};

use crate::{
    app::{Options, Shared},
    errors::{ApiError, Errors, json},
};

/// No text has as many bytes for each of its tokens.
const MAX_TOKEN_LENGTH: usize = 16;

/// The model as clients see it.
#[derive(Clone, Serialize, ToSchema)]
pub struct ModelCard {
    pub id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Height and width of its pictures, in pixels
    pub image_size: usize,
    /// Rows and columns of a picture's codes, and codes at each position
    pub code_shape: [usize; 3],
    /// How many different codes there are
    pub codebook_size: usize,
    /// Frames of a video
    pub video_frames: usize,
    /// Positions of prompt and answer together
    pub context_length: usize,
    parameters: u64,
    device: String,
    dtype: String,
    generates: [&'static str; 3],
    pub defaults: Defaults,
    /// How pictures of questions are made square, and frames of videos.
    #[serde(skip)]
    pub resize: [ResizeMode; 2],
}

/// How pictures are generated where a request says nothing
#[derive(Clone, Serialize, ToSchema)]
pub struct Defaults {
    pub cfg: f64,
    temperature: f64,
    top_k: usize,
    top_p: f64,
}

impl ModelCard {
    pub fn of(pipeline: &Pipeline, options: &Options, created: u64) -> vila_u::Result<Self> {
        let checkpoint = pipeline.checkpoint()?;
        let (config, own) = (&checkpoint.config, &checkpoint.generation);
        Ok(Self {
            id: options.model.clone(),
            object: "model",
            created,
            owned_by: "vila-u",
            image_size: pipeline.image_size(),
            code_shape: pipeline.code_shape(),
            codebook_size: pipeline.codebook_size(),
            video_frames: pipeline.video_frames()?,
            context_length: checkpoint.model.llm.context_length(),
            parameters: checkpoint::info(&checkpoint.files)?.parameters,
            device: if device::is_cpu(&pipeline.device()) {
                "cpu".into()
            } else {
                options.device.clone()
            },
            dtype: options.dtype.clone(),
            generates: ["text", "image", "video"],
            defaults: Defaults {
                cfg: own.visual_guidance,
                temperature: own.visual_temperature,
                top_k: Sampling::VISUAL.top_k.unwrap_or(0),
                top_p: Sampling::VISUAL.top_p.unwrap_or(1.0),
            },
            resize: [
                config.root.inference_resize(),
                config.root.training_resize(),
            ],
        })
    }
}

impl ModelCard {
    /// Refuses a text that is longer than the model reads by far, before anybody makes tokens of it.
    pub fn check_text(&self, bytes: usize, param: &str) -> Result<(), ApiError> {
        if bytes <= MAX_TOKEN_LENGTH * self.context_length {
            return Ok(());
        }
        let message = format!(
            "{bytes} bytes of text are more than the {} tokens that this model reads: send less",
            self.context_length
        );
        Err(ApiError::invalid(message).param(param))
    }
}

#[derive(Serialize, ToSchema)]
struct Models {
    object: &'static str,
    data: Vec<ModelCard>,
}

/// The model that is served
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, description = "One model", body = Models), Errors))]
pub async fn list(State(app): State<Shared>) -> Result<Response, ApiError> {
    Ok(json(&Models {
        object: "list",
        data: vec![app.model()?.card.clone()],
    }))
}

/// The same by its name
#[utoipa::path(get, path = "/v1/models/{model}", tag = "models", params(("model" = String, Path, description = "Any name")), responses((status = 200, description = "The model", body = ModelCard), Errors))]
pub async fn one(State(app): State<Shared>) -> Result<Response, ApiError> {
    Ok(json(&app.model()?.card))
}
