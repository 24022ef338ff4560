//! Pictures to codes and back: `/v1/encode`, `/v1/decode`, and `/v1/reconstruct`, which shows what each code adds.

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vila_u::{
    Codes,
    evaluation::metrics::{psnr, ssim},
    media::{Picture, preprocess::ResizeMode},
};

use super::models::ModelCard;
use crate::{
    app::Shared,
    body::Json,
    errors::{ApiError, Errors, json},
    media,
    pictures::{self, MAX_IMAGES, Output, PictureFormat, base64},
};

/// At every row and column, the codes of a position.
type Nested = Vec<Vec<Vec<i64>>>;

#[derive(Deserialize, ToSchema)]
pub struct EncodeRequest {
    /// URLs, of which data URLs are always read
    images: Option<Vec<String>>,
    image: Option<String>,
    /// Also what the codes stand for
    features: Option<bool>,
}

#[derive(Serialize, ToSchema)]
struct Encoded {
    /// Of each picture, rows of positions of codes
    codes: Vec<Nested>,
    shape: [usize; 3],
    codebook_size: usize,
    /// Of each picture, little-endian f32 in base64
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features_shape: Option<[usize; 3]>,
}

/// The codes of pictures
#[utoipa::path(post, path = "/v1/encode", tag = "codes", request_body = EncodeRequest, responses((status = 200, description = "Codes, and features if they were asked for", body = Encoded), Errors))]
pub async fn encode(
    State(app): State<Shared>,
    Json(request, _held): Json<EncodeRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let mut urls = request.images.unwrap_or_default();
    urls.extend(request.image);
    if urls.is_empty() || urls.len() > MAX_IMAGES {
        let message = format!(
            "{} pictures: send 1 to {MAX_IMAGES} as `images`",
            urls.len()
        );
        return Err(ApiError::invalid(message).param("images"));
    }
    let slot = model.worker.slot()?;
    let wanted = request.features == Some(true);
    let mut encoded = Encoded {
        codes: Vec::new(),
        shape: model.card.code_shape,
        codebook_size: model.card.codebook_size,
        features: wanted.then(Vec::new),
        features_shape: None,
    };
    for (index, url) in urls.into_iter().enumerate() {
        let picture = seen(&app, &model.card, url, &format!("images[{index}]")).await?;
        let one = model
            .worker
            .call(&slot, |pipeline| pipeline.encode(picture))
            .await?;
        encoded.codes.push(nested(&one.codes));
        if let Some(features) = &mut encoded.features {
            encoded.features_shape = Some(one.features.shape());
            let values = one.features.values().iter();
            let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
            features.push(base64(&bytes));
        }
    }
    Ok(json(&encoded))
}

#[derive(Deserialize, ToSchema)]
pub struct DecodeRequest {
    /// Of one picture, or of several
    codes: OneOrMany,
    output_format: Option<PictureFormat>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Codes)]
#[serde(
    untagged,
    expecting = "write codes as rows of positions of codes, or a list of these, as /v1/encode gives them"
)]
enum OneOrMany {
    One(Nested),
    Many(Vec<Nested>),
}

#[derive(Serialize, ToSchema)]
struct Decoded {
    data: Vec<DecodedImage>,
}

#[derive(Serialize, ToSchema)]
struct DecodedImage {
    b64_json: String,
}

/// The pictures that codes stand for
#[utoipa::path(post, path = "/v1/decode", tag = "codes", request_body = DecodeRequest, responses((status = 200, description = "A picture for each", body = Decoded), Errors))]
pub async fn decode(
    State(app): State<Shared>,
    Json(request, _held): Json<DecodeRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let all = match request.codes {
        OneOrMany::One(codes) => vec![codes],
        OneOrMany::Many(all) => all,
    };
    if all.is_empty() || all.len() > MAX_IMAGES {
        let message = format!(
            "codes of {} pictures: send those of 1 to {MAX_IMAGES}",
            all.len()
        );
        return Err(ApiError::invalid(message).param("codes"));
    }
    let output = Output {
        format: request.output_format.unwrap_or_default(),
        ..Output::default()
    };
    let slot = model.worker.slot()?;
    let mut data = Vec::new();
    for codes in all {
        let codes = grid(&codes, model.card.code_shape)?;
        let image = model
            .worker
            .call(&slot, move |pipeline| pipeline.decode(&codes))
            .await?;
        let bytes = pictures::encode(&app, image, output).await?;
        data.push(DecodedImage {
            b64_json: base64(&bytes),
        });
    }
    Ok(json(&Decoded { data }))
}

#[derive(Deserialize, ToSchema)]
pub struct ReconstructRequest {
    /// A URL, of which data URLs are always read
    image: String,
}

#[derive(Serialize, ToSchema)]
struct Reconstructed {
    /// The picture as the model sees it, a PNG in base64
    original: String,
    /// From the first code of every position, the first two, and so on
    depths: Vec<Depth>,
    codes: Nested,
    shape: [usize; 3],
    codebook_size: usize,
}

#[derive(Serialize, ToSchema)]
struct Depth {
    depth: usize,
    /// A PNG in base64
    image: String,
    /// Peak signal-to-noise ratio in dB; nothing of the same picture
    psnr: Option<f64>,
    ssim: Option<f64>,
}

/// A picture through its codes and back, depth by depth
#[utoipa::path(post, path = "/v1/reconstruct", tag = "codes", request_body = ReconstructRequest, responses((status = 200, description = "What each depth gives", body = Reconstructed), Errors))]
pub async fn reconstruct(
    State(app): State<Shared>,
    Json(request, _held): Json<ReconstructRequest>,
) -> Result<Response, ApiError> {
    let model = app.model()?;
    let picture = seen(&app, &model.card, request.image, "image").await?;
    let original = picture.rgb();
    let slot = model.worker.slot()?;
    let (codes, images) = model
        .worker
        .call(&slot, move |pipeline| {
            let codes = pipeline.encode(picture)?.codes;
            let images = pipeline.decode_by_depth(&codes)?;
            Ok((codes, images))
        })
        .await?;
    let answer = Reconstructed {
        original: String::new(),
        depths: Vec::new(),
        codes: nested(&codes),
        shape: codes.shape(),
        codebook_size: model.card.codebook_size,
    };
    let answer = pictures::encoding(&app, move || {
        let png = |image: &_| {
            let bytes = pictures::to_file(image, Output::default())?;
            Ok::<_, ApiError>(base64(&bytes))
        };
        let depth = |(index, image): (usize, &_)| {
            Ok(Depth {
                depth: index + 1,
                image: png(image)?,
                psnr: psnr(&original, image).filter(|decibels| decibels.is_finite()),
                ssim: ssim(&original, image),
            })
        };
        Ok(Reconstructed {
            original: png(&original)?,
            depths: images
                .iter()
                .enumerate()
                .map(depth)
                .collect::<Result<_, ApiError>>()?,
            ..answer
        })
    });
    Ok(json(&answer.await?))
}

async fn seen(app: &Shared, card: &ModelCard, url: String, at: &str) -> Result<Picture, ApiError> {
    media::picture(app, url, ResizeMode::Stretch, card.image_size, at).await
}

fn nested(codes: &Codes) -> Nested {
    let [rows, columns, _] = codes.shape();
    let at = |row, column| codes.at(row, column).unwrap_or_default().to_vec();
    (0..rows)
        .map(|row| (0..columns).map(|column| at(row, column)).collect())
        .collect()
}

fn grid(codes: &Nested, shape: [usize; 3]) -> Result<Codes, ApiError> {
    let [rows, columns, depth] = shape;
    let fits = codes.len() == rows
        && codes
            .iter()
            .all(|row| row.len() == columns && row.iter().all(|position| position.len() == depth));
    if !fits {
        let message = format!(
            "these are not {rows} rows of {columns} positions of {depth} codes, as this model's are"
        );
        return Err(ApiError::invalid(message).param("codes"));
    }
    let values = codes.iter().flatten().flatten().copied().collect();
    Ok(Codes::new(shape, values)?)
}
