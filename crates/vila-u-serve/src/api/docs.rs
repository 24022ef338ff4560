//! `/docs`: the description of the API as a page that needs nothing from elsewhere, not even a script.

use std::{fmt::Write, sync::Arc};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::Value;
use utoipa::openapi::OpenApi;

use crate::{errors, page};

/// The same as data and as a page.
#[derive(Clone)]
pub struct Docs {
    json: Arc<Value>,
    page: Arc<str>,
}

impl Docs {
    pub fn new(description: &OpenApi) -> Self {
        let json = serde_json::to_value(description).unwrap_or_default();
        Self {
            page: write(&json).into(),
            json: Arc::new(json),
        }
    }

    pub fn json(&self) -> Response {
        errors::json(&*self.json)
    }

    pub fn page(&self) -> Response {
        let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        page::secure((html, self.page.to_string()).into_response())
    }
}

fn write(api: &Value) -> String {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>API of VILA-U</title>\n",
    );
    let info = &api["info"];
    let _ = writeln!(
        html,
        "<h1>{}</h1>\n<p>{}</p>\n<p>The same for programs: <a href=\"/openapi.json\">/openapi.json</a>. The page: \
         <a href=\"/\">/</a>.</p>",
        text(&info["title"]),
        text(&info["description"])
    );
    for (path, operations) in entries(&api["paths"]) {
        for (method, operation) in entries(operations) {
            write_operation(&mut html, api, path, method, operation);
        }
    }
    html
}

fn write_operation(html: &mut String, api: &Value, path: &str, method: &str, operation: &Value) {
    let name = escape(&format!("{} {path}", method.to_uppercase()));
    let _ = writeln!(
        html,
        "<hr>\n<h2>{name}</h2>\n<p><b>{}</b></p>",
        text(&operation["summary"])
    );
    if operation["description"].is_string() {
        let _ = writeln!(html, "<p>{}</p>", text(&operation["description"]));
    }
    let parameters = operation["parameters"].as_array();
    let parameters = parameters.into_iter().flatten().map(|parameter| {
        (
            text(&parameter["name"]),
            kind(&parameter["schema"]),
            text(&parameter["description"]),
        )
    });
    table(html, "parameters", parameters.collect());
    let bodies = entries(&operation["requestBody"]["content"]);
    if let Some((_, body)) = bodies.first() {
        table(
            html,
            "fields of the body",
            fields(resolve(api, &body["schema"])),
        );
    }
    for (_, answer) in entries(&operation["responses"]["200"]["content"]) {
        table(
            html,
            "fields of the answer",
            fields(resolve(api, &answer["schema"])),
        );
    }
}

fn table(html: &mut String, caption: &str, rows: Vec<(String, String, String)>) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(html, "<table>\n<caption>{caption}</caption>");
    for (name, kind, description) in rows {
        let _ = writeln!(
            html,
            "<tr><th align=\"left\"><code>{name}</code></th><td>{kind}</td><td>{description}</td></tr>"
        );
    }
    let _ = writeln!(html, "</table>");
}

fn fields(schema: &Value) -> Vec<(String, String, String)> {
    let required = schema["required"].as_array();
    let required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    let field = |(name, schema): (&str, &Value)| {
        let star = if required(name) { "" } else { "?" };
        (
            format!("{}{star}", escape(name)),
            kind(schema),
            text(&schema["description"]),
        )
    };
    entries(&schema["properties"])
        .into_iter()
        .map(field)
        .collect()
}

/// What a schema points to.
fn resolve<'a>(api: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next());
    name.map_or(schema, |name| &api["components"]["schemas"][name])
}

/// A type in a few words.
fn kind(schema: &Value) -> String {
    if let Some(path) = schema["$ref"].as_str() {
        return escape(path.rsplit('/').next().unwrap_or_default());
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        if let Some(all) = schema[several].as_array() {
            let all: Vec<String> = all.iter().map(kind).filter(|kind| kind != "null").collect();
            return all.join(" or ");
        }
    }
    match &schema["type"] {
        Value::Array(all) => {
            let all = all
                .iter()
                .filter_map(Value::as_str)
                .filter(|kind| *kind != "null");
            escape(&all.collect::<Vec<_>>().join(" or "))
        }
        Value::String(kind_name) if kind_name == "array" => {
            format!("list of {}", kind(&schema["items"]))
        }
        name => text(name),
    }
}

fn entries(value: &Value) -> Vec<(&str, &Value)> {
    let object = value.as_object().into_iter().flatten();
    object.map(|(name, value)| (name.as_str(), value)).collect()
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
