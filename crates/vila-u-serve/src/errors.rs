//! Errors in the shape of OpenAI's: a sentence that says what to do, and what it is about.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// Seconds after which a client may try again.
const RETRY_AFTER: u32 = 2;

/// Why a request was not answered.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What is wrong, and what to do about it.
    message: String,
    r#type: &'static str,
    /// The field that is at fault.
    param: Option<String>,
    code: Option<&'static str>,
}

/// Errors that any request may get, for the description of the API.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the macro alone")]
pub enum Errors {
    /// Something about the request is wrong
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// The server has an API key, and it was not given
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// A web page of another origin asks, or another name of the server is asked
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// There is no such thing
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body came too slowly
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body is of another kind
    #[response(status = 415)]
    Unsupported(ErrorBody),
    /// Too many requests wait; `Retry-After` says when to ask again
    #[response(status = 429)]
    Busy(ErrorBody),
    /// The server or the model failed
    #[response(status = 500)]
    Failed(ErrorBody),
    /// The model is being loaded, or the server is shutting down
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded")
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Names the field at fault.
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub fn body(self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                r#type: match self.status.as_u16() {
                    401 => "authentication_error",
                    403 => "permission_error",
                    429 => "rate_limit_error",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                },
                message: self.message,
                param: self.param,
                code: self.code,
            },
        }
    }
}

/// What the model says of a request: wrong usage is the client's, everything else the server's.
impl From<vila_u::Error> for ApiError {
    fn from(error: vila_u::Error) -> Self {
        match error {
            vila_u::Error::Usage(message) => Self::invalid(message),
            vila_u::Error::Interrupted => Self::unavailable("stopped: the server is shutting down"),
            error => Self::failed(error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, json(&self.body())).into_response();
        let headers = response.headers_mut();
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON body with its header.
pub fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
