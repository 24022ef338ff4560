//! Who may use the server: clients that know the API key, and web pages of its own or of permitted origins.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;

use crate::{
    app::{App, Shared},
    errors::ApiError,
};

/// What needs the key. The page, the description of the API and the health checks are open, and so are generated files,
/// whose names nobody guesses.
fn is_guarded(path: &str) -> bool {
    let guarded = ["/v1/", "/sdapi/", "/metrics"];
    guarded.iter().any(|start| path.starts_with(start)) && !path.starts_with("/v1/files/")
}

pub async fn check(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let checked = check_site(&app, request.headers())
        .and_then(|()| check_key(&app, request.uri().path(), request.headers()));
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check_key(app: &App, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let key = app.options.api_key.as_deref();
    if key.is_none_or(|key| !is_guarded(path) || knows(headers, key)) {
        return Ok(());
    }
    let message = "the API key is missing or wrong: send the header `Authorization: Bearer KEY`";
    Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"))
}

/// Refuses what a browser sends for a web page of somebody else: its user may reach servers that others do not.
fn check_site(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let refused = |message: String| Err(ApiError::new(StatusCode::FORBIDDEN, message));
    let host = text(header::HOST);
    if let Some(origin) = text(header::ORIGIN) {
        let own = authority(origin).is_some_and(|authority| Some(authority) == host);
        if !own && !permits(app, |permitted| permitted == origin) {
            return refused(format!(
                "web pages of {origin} may not use this server: start it with --cors {origin}; a proxy before it must \
                 pass the header `Host` on"
            ));
        }
    }
    // A page of a name that its owner points here (DNS rebinding) counts as our own.
    let known =
        |host: &str| is_local(host) || permits(app, |permitted| authority(permitted) == Some(host));
    match host {
        Some(host) if app.loopback && app.options.api_key.is_none() && !known(host) => {
            refused(format!(
                "this server answers to names of its own machine alone, not to {host}: use localhost, or start it with \
                 --api-key KEY or --cors https://{host}"
            ))
        }
        _ => Ok(()),
    }
}

/// Whether the operator permits an origin that is as asked.
fn permits(app: &App, is: impl Fn(&str) -> bool) -> bool {
    let mut permitted = app.options.cors.iter();
    permitted.any(|origin| origin == "*" || is(origin.trim_end_matches('/')))
}

/// Host and port of an origin.
fn authority(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, authority)| authority)
}

/// Whether a host is an address, or a name that nobody can own in the public DNS.
fn is_local(host: &str) -> bool {
    let Ok(host) = host.parse::<Authority>() else {
        return false;
    };
    let name = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
    let reserved = [".localhost", ".local", ".internal"];
    !name.contains('.')
        || name.parse::<IpAddr>().is_ok()
        || reserved.iter().any(|end| name.ends_with(end))
}

/// `Bearer KEY`, or as A1111's clients have it, the password of `Basic`.
fn knows(headers: &HeaderMap, key: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION);
    let given = given.and_then(|given| given.to_str().ok()?.trim().split_once(' '));
    let same = |given: &[u8]| bool::from(given.ct_eq(key.as_bytes()));
    match given {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            same(token.trim().as_bytes())
        }
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("basic") => {
            let both = STANDARD.decode(token.trim()).unwrap_or_default();
            let colon = both.iter().position(|byte| *byte == b':');
            colon.is_some_and(|colon| same(&both[colon + 1..]))
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::app::Options;

    #[test]
    fn the_key_comes_as_a_token_or_as_a_password() {
        let knows = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            knows(&headers, "secret")
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert!(knows("Bearer secret") && knows("bearer  secret") && knows(&basic("me:secret")));
        for wrong in [
            "Bearer",
            "Bearer secre",
            "Bearer secrets",
            "secret",
            "Basic !",
            &basic("secret:"),
        ] {
            assert!(!knows(wrong), "{wrong}");
        }
        assert!(!super::knows(&HeaderMap::new(), "secret"));
    }

    #[test]
    fn pages_of_others_are_refused() {
        let local = App::new(Options::default(), true);
        let open = App::new(Options::default(), false);
        let permitted = Options {
            cors: vec!["https://page.org/".into(), "http://10.0.0.2:3000".into()],
            ..Options::default()
        };
        let permitted = App::new(permitted, true);
        let allowed = |app: &App, host: &str, origin: &str| {
            let mut headers = HeaderMap::new();
            for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
                if !value.is_empty() {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            check_site(app, &headers).is_ok()
        };
        for host in [
            "localhost:8000",
            "LOCALHOST",
            "my-server",
            "127.0.0.1:8000",
            "[::1]:8000",
            "192.168.1.5",
            "host.docker.internal:8000",
            "",
        ] {
            assert!(allowed(&local, host, ""), "{host}");
        }
        for host in ["evil.org:8000", "localhost.evil.org", "evil.org.", "["] {
            assert!(!allowed(&local, host, ""), "{host}");
            assert!(allowed(&open, host, ""), "{host}");
        }
        let own = "localhost:8000";
        assert!(allowed(&local, own, "http://localhost:8000"));
        for origin in ["http://localhost:3000", "https://page.org", "null", "x"] {
            assert!(!allowed(&local, own, origin), "{origin}");
            assert!(!allowed(&open, "evil.org", origin), "{origin}");
        }
        assert!(allowed(&permitted, own, "https://page.org"));
        assert!(allowed(&permitted, own, "http://10.0.0.2:3000"));
        assert!(allowed(&permitted, "page.org", "https://page.org"));
        assert!(!allowed(&permitted, own, "https://page.org.evil.org"));
        assert!(!allowed(&permitted, "evil.org", "https://page.org"));
    }
}
