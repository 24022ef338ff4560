//! `/v1/files/{id}/content`: pictures that were asked for by URL.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::{
    app::Shared,
    errors::{ApiError, Errors},
    extract::Path,
    file_store::File,
    page,
    pictures::Binary,
};

/// A generated file
///
/// Files are kept for an hour, and fewer where there are many.
#[utoipa::path(get, path = "/v1/files/{id}/content", tag = "images", params(("id" = String, Path, description = "As in the URL of an answer")), responses((status = 200, description = "The file", content((Binary = "image/png"), (Binary = "image/jpeg"), (Binary = "image/webp"), (Binary = "video/mp4"))), Errors))]
pub async fn content(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let file = app.files.get(&id);
    let file = file.ok_or_else(|| {
        ApiError::not_found("there is no such file, or no longer: generate it again")
    })?;
    Ok(respond(file))
}

pub fn respond(file: File) -> Response {
    page::secure(([(header::CONTENT_TYPE, file.mime)], file.content).into_response())
}
