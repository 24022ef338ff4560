//! `/v1/images/generations`: pictures from a text.

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::Response,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vila_u::{
    GenerateOptions,
    engine::{Event, Generation, Request, Usage, VisualKind},
    image::RgbImage,
};

use super::sampling::{self, SamplingParams};
use crate::{
    app::{Shared, new_id, now},
    body::Json,
    errors::{ApiError, Errors, json},
    file_store::File,
    lenient,
    pictures::{self, MAX_IMAGES, Output, PictureFormat, base64},
    sse,
    worker::Events,
};

/// Partial pictures on the way to each.
const MAX_PARTIAL: usize = 16;

#[derive(Deserialize, ToSchema)]
pub struct ImageRequest {
    prompt: String,
    /// How many pictures, 1 to 64
    #[serde(default, deserialize_with = "lenient::count")]
    #[schema(minimum = 1, maximum = 64)]
    n: Option<usize>,
    /// `auto` for the model's own size, or as in `512x512`: resampled
    size: Option<String>,
    response_format: Option<ResponseFormat>,
    output_format: Option<PictureFormat>,
    /// Quality of JPEG, 1 to 100
    #[serde(default, deserialize_with = "lenient::count")]
    output_compression: Option<usize>,
    /// Events instead of one answer
    stream: Option<bool>,
    /// Pictures on the way to each, 0 to 16, where it streams
    #[serde(default, deserialize_with = "lenient::count")]
    partial_images: Option<usize>,
    /// The same seed gives the same pictures; -1 is a new one
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

impl ImageRequest {
    fn options(&self, seed: u64) -> Result<GenerateOptions, ApiError> {
        let wanted = SamplingParams {
            cfg: self.cfg,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            greedy: self.greedy,
        };
        wanted.options(seed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ResponseFormat {
    B64Json,
    /// A URL of this server, for an hour
    Url,
}

#[derive(Serialize, ToSchema)]
struct Images {
    created: u64,
    data: Vec<Image>,
    usage: ImageUsage,
    seed: u64,
    output_format: PictureFormat,
    size: String,
}

#[derive(Serialize, ToSchema)]
struct Image {
    #[serde(skip_serializing_if = "Option::is_none")]
    b64_json: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    seed: u64,
    /// The number of the picture among those of its seed
    index: usize,
}

#[derive(Clone, Copy, Default, Serialize, ToSchema)]
pub struct ImageUsage {
    input_tokens: usize,
    output_tokens: usize,
    total_tokens: usize,
}

impl ImageUsage {
    fn add(&mut self, usage: &Usage) {
        self.input_tokens += usage.prompt_tokens;
        self.output_tokens += usage.completion_tokens;
        self.total_tokens = self.input_tokens + self.output_tokens;
    }
}

/// What a request asks for, checked.
struct ImageParams {
    n: usize,
    previews: usize,
    output: Output,
    size: String,
    seed: u64,
    /// The beginning of URLs, where they were asked for.
    urls: Option<String>,
}

/// Generate pictures
///
/// With `stream`, events: `image_generation.partial_image`, `image_generation.progress` (done and total visual tokens
/// of a picture), and `image_generation.completed` for each picture as soon as it is done.
#[utoipa::path(post, path = "/v1/images/generations", tag = "images", request_body = ImageRequest, responses((status = 200, description = "The pictures", content((Images = "application/json"), (String = "text/event-stream"))), Errors))]
pub async fn generate(
    State(app): State<Shared>,
    headers: HeaderMap,
    Json(request, held): Json<ImageRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let params = params(&request, model.card.image_size, &headers)?;
    let options = request.options(params.seed)?;
    model.card.check_text(request.prompt.len(), "prompt")?;
    let mut events = model
        .worker
        .submit(requests(&request.prompt, &params, &options))?;
    let streams = request.stream == Some(true);
    drop((request, held));
    if streams {
        // A refusal can still be the status.
        events.begin().await?;
        let app = app.clone();
        return Ok(sse::stream(|sender| stream(app, params, events, sender)));
    }
    Ok(json(&collect(&app, &params, events).await?))
}

fn params(
    request: &ImageRequest,
    own: usize,
    headers: &HeaderMap,
) -> Result<ImageParams, ApiError> {
    let n = request.n.unwrap_or(1);
    if !(1..=MAX_IMAGES).contains(&n) {
        return Err(
            ApiError::invalid(format!("n is {n}: ask for 1 to {MAX_IMAGES} pictures")).param("n"),
        );
    }
    let size = request
        .size
        .as_deref()
        .map(pictures::size)
        .transpose()?
        .flatten();
    let [width, height] = size.unwrap_or([own as u32; 2]);
    pictures::check_pixels(n, [width, height])?;
    let partial = request
        .partial_images
        .filter(|_| request.stream == Some(true));
    let quality = request
        .output_compression
        .map(|quality| quality.clamp(1, 100) as u8);
    Ok(ImageParams {
        n,
        previews: partial.unwrap_or(0).min(MAX_PARTIAL),
        output: Output {
            format: request.output_format.unwrap_or_default(),
            quality,
            size,
        },
        size: format!("{width}x{height}"),
        seed: sampling::seed(request.seed),
        urls: (request.response_format == Some(ResponseFormat::Url)).then(|| origin(headers)),
    })
}

/// How the client reaches this server.
fn origin(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST.as_str()).unwrap_or("127.0.0.1");
    let secure = text("x-forwarded-proto") == Some("https");
    format!("{}://{host}", if secure { "https" } else { "http" })
}

fn requests(prompt: &str, params: &ImageParams, options: &GenerateOptions) -> Vec<Request> {
    let one = |index| {
        Request::Generate(Generation {
            prompt: prompt.into(),
            kind: VisualKind::Image,
            options: options.clone(),
            index,
            previews: params.previews,
        })
    };
    (0..params.n).map(one).collect()
}

async fn collect(
    app: &Shared,
    params: &ImageParams,
    mut events: Events,
) -> Result<Images, ApiError> {
    let mut usage = ImageUsage::default();
    let mut data = Vec::new();
    while let Some((index, event)) = events.next().await? {
        match event {
            Event::Generated(generated) => {
                if let Some(image) = generated.frames.into_iter().next() {
                    data.push(finished(app, params, index, image).await?);
                }
            }
            Event::Finished { usage: one, .. } => usage.add(&one),
            _ => {}
        }
    }
    data.sort_by_key(|image| image.index);
    Ok(Images {
        created: now(),
        data,
        usage,
        seed: params.seed,
        output_format: params.output.format,
        size: params.size.clone(),
    })
}

async fn finished(
    app: &Shared,
    params: &ImageParams,
    index: usize,
    image: RgbImage,
) -> Result<Image, ApiError> {
    let bytes = pictures::encode(app, image, params.output).await?;
    let (mut b64_json, mut url) = (None, None);
    match &params.urls {
        None => b64_json = Some(base64(&bytes)),
        Some(origin) => {
            let id = new_id("file-");
            url = Some(format!("{origin}/v1/files/{id}/content"));
            let mime = params.output.format.mime();
            let content = Bytes::from(bytes);
            app.files.put(id, File { content, mime });
        }
    }
    Ok(Image {
        b64_json,
        url,
        seed: params.seed,
        index,
    })
}

#[derive(Serialize)]
struct Partial<'a> {
    r#type: &'static str,
    b64_json: String,
    partial_image_index: usize,
    image_index: usize,
    created_at: u64,
    size: &'a str,
    output_format: PictureFormat,
}

#[derive(Serialize)]
struct Progress {
    r#type: &'static str,
    image_index: usize,
    done: usize,
    total: usize,
}

#[derive(Serialize)]
struct Completed<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    image: Image,
    image_index: usize,
    created_at: u64,
    size: &'a str,
    output_format: PictureFormat,
    usage: ImageUsage,
}

async fn stream(
    app: Shared,
    params: ImageParams,
    mut events: Events,
    sender: sse::Sender,
) -> Result<(), ApiError> {
    let mut partial = vec![0; params.n];
    let mut pictures: Vec<Option<RgbImage>> = vec![None; params.n];
    let (size, output_format) = (params.size.as_str(), params.output.format);
    while let Some((index, event)) = events.next().await? {
        match event {
            Event::Progress { done, total } => {
                let r#type = "image_generation.progress";
                let progress = Progress {
                    r#type,
                    image_index: index,
                    done,
                    total,
                };
                sender.event(r#type, &progress).await?;
            }
            Event::Preview(images) => {
                let Some(image) = images.into_iter().next() else {
                    continue;
                };
                let r#type = "image_generation.partial_image";
                let partial_image_index = partial[index];
                partial[index] += 1;
                let bytes = pictures::encode(&app, image, params.output).await?;
                let b64_json = base64(&bytes);
                let created_at = now();
                let image_index = index;
                let one = Partial {
                    r#type,
                    b64_json,
                    partial_image_index,
                    image_index,
                    created_at,
                    size,
                    output_format,
                };
                sender.event(r#type, &one).await?;
            }
            Event::Generated(generated) => pictures[index] = generated.frames.into_iter().next(),
            Event::Finished { usage: one, .. } => {
                let Some(image) = pictures[index].take() else {
                    continue;
                };
                let mut usage = ImageUsage::default();
                usage.add(&one);
                let r#type = "image_generation.completed";
                let image = finished(&app, &params, index, image).await?;
                let created_at = now();
                let done = Completed {
                    r#type,
                    image,
                    image_index: index,
                    created_at,
                    size,
                    output_format,
                    usage,
                };
                sender.event(r#type, &done).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
