//! The API of the Stable Diffusion web UI (AUTOMATIC1111) as far as SillyTavern and Open WebUI use it.
//!
//! There is one model and one way to sample, so that the lists have one entry each, and choices among them are accepted
//! and do nothing.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use axum::{extract::State, response::Response, routing::get};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{Content, HttpMethod, Ref, ResponseBuilder, Responses, path::OperationBuilder},
};
use utoipa_axum::router::OpenApiRouter;
use vila_u::engine::{Event, Generation, Request, VisualKind};

use super::sampling::{self, SamplingParams};
use crate::{
    app::Shared,
    body::Json,
    errors::{self, ApiError, Errors},
    lenient,
    pictures::{self, MAX_IMAGES, Output, base64, checked_size},
    worker::Events,
};

/// The name of the one sampler and the one scheduler.
const OWN: &str = "Default";

/// What is being generated, for `progress` and `interrupt`.
#[derive(Default)]
pub struct Txt2ImgJobs {
    jobs: AtomicUsize,
    /// Of the request that last told of it, 0 to 1.
    progress: Mutex<f64>,
    interrupt: Notify,
}

impl Txt2ImgJobs {
    fn begin(&self) -> RunningJob<'_> {
        self.jobs.fetch_add(1, Ordering::SeqCst);
        RunningJob(self)
    }

    fn set(&self, progress: f64) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

struct RunningJob<'a>(&'a Txt2ImgJobs);

impl Drop for RunningJob<'_> {
    fn drop(&mut self) {
        if self.0.jobs.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.set(0.0);
        }
    }
}

#[derive(Deserialize, ToSchema)]
pub struct Txt2Img {
    prompt: Option<String>,
    /// -1 for a new one
    #[serde(default, deserialize_with = "lenient::seed")]
    seed: Option<u64>,
    /// Pictures at once
    #[serde(default, deserialize_with = "lenient::count")]
    batch_size: Option<usize>,
    /// Batches
    #[serde(default, deserialize_with = "lenient::count")]
    n_iter: Option<usize>,
    /// The pictures are resampled to this size
    #[serde(default, deserialize_with = "lenient::count")]
    width: Option<usize>,
    #[serde(default, deserialize_with = "lenient::count")]
    height: Option<usize>,
    /// Weight of classifier-free guidance; 1 turns it off
    cfg_scale: Option<f64>,
}

#[derive(Serialize, ToSchema)]
struct Txt2ImgResponse {
    /// PNG files in base64
    images: Vec<String>,
    parameters: Value,
    /// JSON in a text, with the seeds
    info: String,
}

/// Generate pictures
#[utoipa::path(post, path = "/sdapi/v1/txt2img", tag = "a1111", request_body = Txt2Img, responses((status = 200, description = "The pictures", body = Txt2ImgResponse), Errors))]
pub async fn txt2img(
    State(app): State<Shared>,
    Json(request, held): Json<Txt2Img>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let counts = [request.batch_size, request.n_iter].map(|count| count.unwrap_or(1).max(1));
    let n = counts[0].saturating_mul(counts[1]);
    if n > MAX_IMAGES {
        return Err(
            ApiError::invalid(format!("{n} pictures: ask for at most {MAX_IMAGES}"))
                .param("batch_size"),
        );
    }
    let own = model.card.image_size;
    let sides = [request.width, request.height]
        .map(|side| u32::try_from(side.unwrap_or(own)).unwrap_or(u32::MAX));
    let size = checked_size(sides[0], sides[1])?;
    pictures::check_pixels(n, size)?;
    let seed = sampling::seed(request.seed);
    let wanted = SamplingParams {
        cfg: request.cfg_scale,
        ..SamplingParams::default()
    };
    let options = wanted.options(seed)?;
    let prompt = request.prompt.unwrap_or_default();
    model.card.check_text(prompt.len(), "prompt")?;
    let one = |index| {
        Request::Generate(Generation {
            prompt: prompt.clone(),
            kind: VisualKind::Image,
            options: options.clone(),
            index,
            previews: 0,
        })
    };
    let events = model.worker.submit((0..n).map(one).collect())?;
    let output = Output {
        size: Some(size),
        ..Output::default()
    };
    drop(held);
    let _running = app.txt2img.begin();
    let images = collect(&app, events, n, output).await?;
    let info = json!({
        "prompt": prompt,
        "all_prompts": vec![&prompt; n],
        "seed": seed,
        "all_seeds": vec![seed; n],
        "width": size[0],
        "height": size[1],
        "cfg_scale": request.cfg_scale.unwrap_or(model.card.defaults.cfg),
        "sampler_name": OWN,
        "batch_size": counts[0],
        "sd_model_name": model.card.id,
    });
    Ok(errors::json(&Txt2ImgResponse {
        images,
        parameters: json!({"prompt": prompt, "seed": seed, "width": size[0], "height": size[1]}),
        info: info.to_string(),
    }))
}

/// Waits until all are done, or somebody interrupts: then what is finished is the answer.
async fn collect(
    app: &Shared,
    mut events: Events,
    n: usize,
    output: Output,
) -> Result<Vec<String>, ApiError> {
    let mut images = vec![None; n];
    let mut done = vec![0.0; n];
    let interrupted = app.txt2img.interrupt.notified();
    tokio::pin!(interrupted);
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = &mut interrupted => None,
        };
        let Some((index, event)) = event else {
            break;
        };
        match event {
            Event::Progress {
                done: tokens,
                total,
            } => done[index] = tokens as f64 / total.max(1) as f64,
            Event::Generated(generated) => {
                done[index] = 1.0;
                if let Some(image) = generated.frames.into_iter().next() {
                    images[index] = Some(base64(&pictures::encode(app, image, output).await?));
                }
            }
            _ => {}
        }
        app.txt2img.set(done.iter().sum::<f64>() / n as f64);
    }
    Ok(images.into_iter().flatten().collect())
}

/// The settings, of which the model is the only one
#[utoipa::path(get, path = "/sdapi/v1/options", tag = "a1111", responses((status = 200, description = "Settings", body = Object), Errors))]
pub async fn options(State(app): State<Shared>) -> Result<Response, ApiError> {
    let model = &app.model()?.card.id;
    Ok(errors::json(&json!({
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "samples_format": "png",
        "CLIP_stop_at_last_layers": 1,
    })))
}

/// Of any names, none of which is read
#[derive(Deserialize, ToSchema)]
pub struct Settings {}

/// Accepted, and without effect
#[utoipa::path(post, path = "/sdapi/v1/options", tag = "a1111", request_body = Settings, responses((status = 200, description = "Nothing", body = Option<String>), Errors))]
pub async fn set_options(_: Json<Settings>) -> Response {
    errors::json(&Value::Null)
}

/// How far the pictures are
#[utoipa::path(get, path = "/sdapi/v1/progress", tag = "a1111", responses((status = 200, description = "From 0 to 1", body = Object), Errors))]
pub async fn progress(State(app): State<Shared>) -> Response {
    let txt2img = &app.txt2img;
    let jobs = txt2img.jobs.load(Ordering::SeqCst);
    let progress = *txt2img
        .progress
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    errors::json(&json!({
        "progress": progress,
        "eta_relative": 0.0,
        "state": {
            "skipped": false,
            "interrupted": false,
            "job": if jobs > 0 { "txt2img" } else { "" },
            "job_count": jobs,
            "job_no": 0,
            "sampling_step": 0,
            "sampling_steps": 0,
        },
        "current_image": null,
        "textinfo": null,
    }))
}

/// Stop what is generated for this family of clients
#[utoipa::path(post, path = "/sdapi/v1/interrupt", tag = "a1111", responses((status = 200, description = "Nothing", body = Object), Errors))]
pub async fn interrupt(State(app): State<Shared>) -> Response {
    app.txt2img.interrupt.notify_waiters();
    errors::json(&json!({}))
}

/// What clients fill their menus with: lists with an entry each at most.
pub fn menus() -> OpenApiRouter<Shared> {
    let names = json!([{"name": OWN, "label": OWN, "aliases": [], "options": {}}]);
    let mut router = OpenApiRouter::new().route("/sdapi/v1/sd-models", get(models));
    describe(&mut router, "/sdapi/v1/sd-models");
    for (name, content) in [
        ("samplers", names.clone()),
        ("schedulers", names),
        ("cmd-flags", json!({})),
        ("memory", json!({"ram": {}, "cuda": {}})),
        ("embeddings", json!({"loaded": {}, "skipped": {}})),
        ("scripts", json!({"txt2img": [], "img2img": []})),
        ("upscalers", json!([])),
        ("latent-upscale-modes", json!([])),
        ("sd-vae", json!([])),
        ("sd-modules", json!([])),
        ("loras", json!([])),
        ("hypernetworks", json!([])),
        ("face-restorers", json!([])),
        ("prompt-styles", json!([])),
        ("script-info", json!([])),
    ] {
        let path = format!("/sdapi/v1/{name}");
        router = router.route(&path, get(async move || errors::json(&content)));
        describe(&mut router, &path);
    }
    router
}

fn describe(router: &mut OpenApiRouter<Shared>, path: &str) {
    let mut responses: Responses = Errors::responses().into_iter().collect();
    let content = Content::new(None::<Ref>);
    let menu = ResponseBuilder::new()
        .description("Choices")
        .content("application/json", content);
    responses
        .responses
        .insert("200".into(), menu.build().into());
    let operation = OperationBuilder::new()
        .tag("a1111")
        .summary(Some("What there is to choose from"))
        .responses(responses);
    let paths = &mut router.get_openapi_mut().paths;
    paths.add_path_operation(path, vec![HttpMethod::Get], operation.build());
}

async fn models(State(app): State<Shared>) -> Result<Response, ApiError> {
    let name = &app.model()?.card.id;
    Ok(errors::json(&json!([{
        "title": name,
        "model_name": name,
        "hash": null,
        "sha256": null,
        "filename": name,
        "config": null,
    }])))
}
