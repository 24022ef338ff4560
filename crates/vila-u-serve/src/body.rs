//! Request bodies: bounded in size, in time, and all together in memory; JSON with an error that names the field.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use crate::{app::Shared, errors::ApiError};

/// Bytes of a body at most.
pub const MAX_BYTES: usize = 64 << 20;
/// A body of fewer bytes takes no share of the memory for bodies, so that slow large ones do not keep it out.
const SMALL: usize = 64 << 10;
/// Values in a body at most: each is as large in memory as many bytes of JSON.
const MAX_VALUES: usize = 1 << 20;
/// A body is here after this time, or refused.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A JSON body. The second part is its share of the memory for bodies, to be kept as long as it is.
pub struct Json<T>(pub T, pub OwnedSemaphorePermit);

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_json(&parts.headers)?;
        let (bytes, held) = read(app, &parts.headers, body).await?;
        parse(&bytes).map(|value| Self(value, held))
    }
}

/// Reads all of a body.
pub async fn read(
    app: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let read = async {
        let mut stream = body.into_data_stream();
        if length.is_some_and(|length| length > MAX_BYTES as u64) {
            return Err(too_large());
        }
        let room = |bytes: usize| {
            let room = app.bodies.clone().try_acquire_many_owned(bytes as u32);
            room.map_err(|_| {
                ApiError::busy("too many large requests are being read: try again in a moment")
            })
        };
        let (mut bytes, mut held) = (Vec::new(), room(0)?);
        while let Some(piece) = stream.next().await {
            let piece =
                piece.map_err(|_| ApiError::invalid("the body is cut short: send it again"))?;
            let length = bytes.len() + piece.len();
            if length > MAX_BYTES {
                return Err(too_large());
            }
            held.merge(room(length.saturating_sub(SMALL) - held.num_permits())?);
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes, held))
    };
    timeout(TIMEOUT, read).await.unwrap_or_else(|_| {
        let seconds = TIMEOUT.as_secs();
        let message = format!(
            "the body took longer than {seconds} seconds: send it faster, or a smaller one"
        );
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
    })
}

fn too_large() -> ApiError {
    let message = format!(
        "the body is larger than {} MB: send smaller or fewer pictures",
        MAX_BYTES >> 20
    );
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// JSON, or a body of which nothing is said, as simple clients send it; web pages of others, which may do so too, are
/// refused by their `Origin`.
fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "send JSON, with the header `Content-Type: application/json`",
    ))
}

pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::invalid("the body is empty: send a JSON object"));
    }
    let begins_value = |byte: &&u8| matches!(byte, b',' | b'[' | b'{');
    if bytes.iter().filter(begins_value).count() > MAX_VALUES {
        let message = format!("the body holds more than {MAX_VALUES} values: send less at once");
        return Err(ApiError::invalid(message));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ApiError::invalid("the body is not JSON: it is not UTF-8"))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() && path != "." {
            ApiError::invalid(format!("{path}: {error}")).param(path)
        } else if error.is_data() {
            ApiError::invalid(error.to_string())
        } else {
            ApiError::invalid(format!("the body is not JSON: {error}"))
        }
    })?;
    let end = json.end();
    end.map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))?;
    Ok(value)
}
