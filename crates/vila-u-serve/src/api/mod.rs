//! The API, a file a subject.

pub mod a1111;
mod chat;
mod classify;
mod codes;
mod docs;
mod embeddings;
mod files;
mod health;
mod images;
pub mod models;
mod sampling;
pub mod videos;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer},
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access_log,
    app::{Options, Shared},
    auth,
    errors::{ApiError, ErrorBody, ErrorDetail},
    page, unread,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "VILA-U",
        description = "One model that understands and generates images and videos. Requests and answers have OpenAI's \
                       shapes where OpenAI has them; unknown fields are ignored, and any model name is accepted.",
    ),
    components(schemas(ErrorBody, ErrorDetail))
)]
struct Description;

/// All routes.
pub fn router(app: Shared) -> Router {
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .routes(routes!(chat::complete))
        .routes(routes!(images::generate))
        .routes(routes!(videos::create, videos::list))
        .routes(routes!(videos::one, videos::delete))
        .routes(routes!(videos::content))
        .routes(routes!(videos::cancel))
        .routes(routes!(files::content))
        .routes(routes!(embeddings::embed))
        .routes(routes!(codes::encode))
        .routes(routes!(codes::decode))
        .routes(routes!(codes::reconstruct))
        .routes(routes!(classify::classify))
        .routes(routes!(a1111::txt2img))
        .routes(routes!(a1111::options, a1111::set_options))
        .routes(routes!(a1111::progress))
        .routes(routes!(a1111::interrupt))
        .merge(a1111::menus())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .split_for_parts();
    let docs = docs::Docs::new(&description);
    let (json, html) = (docs.clone(), docs);
    router
        // Names with a folder, as on the Hugging Face Hub.
        .route("/v1/models/{owner}/{model}", get(models::one))
        .route("/openapi.json", get(async move || json.json()))
        .route("/docs", get(async move || html.page()))
        .route("/", get(page::index))
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .route("/assets/{name}", get(page::asset))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        // Bodies have a bound of their own.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), auth::check))
        .layer(cors(&app.options))
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::failed("the server failed at this request").into_response()
        }))
        .layer(middleware::from_fn(unread::discard))
        .layer(middleware::from_fn_with_state(app.clone(), access_log::log))
        .with_state(app)
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "there is no {}: GET /docs lists what there is",
        uri.path()
    ))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!(
        "{} takes no {method}: GET /docs says what it takes",
        uri.path()
    );
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

fn cors(options: &Options) -> CorsLayer {
    if options.cors.is_empty() {
        return CorsLayer::new();
    }
    let origins = if options.cors.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let origins = options
            .cors
            .iter()
            .map(|origin| origin.trim_end_matches('/'));
        AllowOrigin::list(origins.filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id")])
}
