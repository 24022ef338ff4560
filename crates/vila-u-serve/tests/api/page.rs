//! The page and the description of the API.

use std::{fs, path::Path};

use super::{Answer, SHARED};

#[test]
fn the_page_is_in_the_program() {
    let page = SHARED.get("/");
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let asset = SHARED.get(&format!("/assets/{name}"));
        assert_eq!(asset.status, 200, "{name}");
        assert_ne!(
            asset.header("content-type"),
            "application/octet-stream",
            "{name}"
        );
        let request = SHARED.agent.get(SHARED.url(&format!("/assets/{name}")));
        let again = Answer::of(
            request
                .header("if-none-match", asset.header("etag"))
                .call()
                .unwrap(),
        );
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
    assert_eq!(SHARED.get("/assets/none.js").error().0, 404);
}

#[test]
fn the_api_is_described() {
    let api = SHARED.get("/openapi.json").json();
    let paths = api["paths"].as_object().unwrap();
    for path in [
        "/v1/chat/completions",
        "/v1/images/generations",
        "/v1/videos/{id}/content",
        "/sdapi/v1/txt2img",
        "/health",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    // Whatever is referred to is there.
    let text = api.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(api["components"]["schemas"].get(name).is_some(), "{name}");
    }
    // Requests and answers of one name would be described as one.
    let schema = |name: &str| api["components"]["schemas"][name]["properties"].clone();
    assert!(
        schema("ChatMessage")["role"].is_object() && schema("ReplyMessage")["refusal"].is_object()
    );
    assert!(
        schema("Usage")["completion_tokens"].is_object()
            && schema("EmbeddingUsage")["total_tokens"].is_object()
    );
    let docs = SHARED.get("/docs");
    assert_eq!(docs.header("content-type"), "text/html; charset=utf-8");
    let html = docs.text();
    assert!(html.contains("POST /v1/chat/completions") && html.contains("max_completion_tokens"));
    assert!(
        !html.contains("<script") && !html.contains("http://") && !html.contains("https://"),
        "{html}"
    );
}
