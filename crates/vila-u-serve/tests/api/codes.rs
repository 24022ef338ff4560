//! Codes, vectors and labels.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{SHARED, decoded, picture, picture_url};

#[test]
fn pictures_become_codes_and_pictures_again() {
    let url = picture_url();
    let encoded = SHARED.ok("/v1/encode", json!({"images": [url], "features": true}));
    assert_eq!(
        (&encoded["shape"], &encoded["codebook_size"]),
        (&json!([8, 8, 4]), &json!(512))
    );
    let codes = &encoded["codes"][0];
    assert_eq!(codes.as_array().unwrap().len(), 8);
    let shape = encoded["features_shape"].as_array().unwrap();
    let values: u64 = shape.iter().map(|side| side.as_u64().unwrap()).product();
    let features = STANDARD
        .decode(encoded["features"][0].as_str().unwrap())
        .unwrap();
    assert_eq!(features.len() as u64, 4 * values);
    let decoded_all = SHARED.ok("/v1/decode", json!({"codes": [codes, codes]}));
    let one = SHARED.ok("/v1/decode", json!({"codes": codes}));
    assert_eq!(decoded_all["data"][1], one["data"][0]);
    assert_eq!(decoded(&one["data"][0]["b64_json"]).dimensions(), (64, 64));

    let inside = SHARED.ok("/v1/reconstruct", json!({"image": picture_url()}));
    assert_eq!(inside["codes"], *codes);
    assert_eq!(decoded(&inside["original"]), picture());
    let depths = inside["depths"].as_array().unwrap();
    assert_eq!(depths.len(), 4);
    let psnr = |depth: usize| depths[depth]["psnr"].as_f64().unwrap();
    assert!(psnr(3) > psnr(0), "{} {}", psnr(3), psnr(0));
    let last = decoded(&depths[3]["image"]);
    let apart = last
        .iter()
        .zip(decoded(&one["data"][0]["b64_json"]).iter())
        .map(|(a, b)| a.abs_diff(*b))
        .max();
    assert!(apart <= Some(1), "{apart:?}");
}

#[test]
fn texts_and_pictures_share_a_space() {
    let vectors = |input: Value, format: &str| -> Vec<Vec<f32>> {
        let answer = SHARED.ok(
            "/v1/embeddings",
            json!({"input": input, "encoding_format": format, "model": "any"}),
        );
        assert_eq!(answer["object"], "list");
        assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0);
        let data = answer["data"].as_array().unwrap().clone();
        let vector = |one: &Value| match &one["embedding"] {
            Value::String(text) => {
                let bytes = STANDARD.decode(text).unwrap();
                bytes
                    .chunks(4)
                    .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
                    .collect()
            }
            numbers => serde_json::from_value(numbers.clone()).unwrap(),
        };
        data.iter().map(vector).collect()
    };
    let picture = json!({"type": "image_url", "image_url": {"url": picture_url()}});
    let all = vectors(
        json!([
            "a red square on a blue background",
            "a white dog on a green background",
            picture
        ]),
        "float",
    );
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for vector in &all {
        assert!((dot(vector, vector) - 1.0).abs() < 1e-3);
    }
    assert!(dot(&all[0], &all[2]) > dot(&all[1], &all[2]));
    assert_eq!(vectors(picture, "base64")[0], all[2]);
    assert_eq!(
        vectors(json!("a red square on a blue background"), "base64")[0],
        all[0]
    );
    let width = all[0].len();
    SHARED.ok("/v1/embeddings", json!({"input": "x", "dimensions": width}));
    for (body, expected) in [
        (json!({"input": "x", "dimensions": width + 1}), "dimensions"),
        (json!({"input": []}), "input"),
        (json!({"input": [1, 2]}), "text"),
        (json!({}), "input"),
    ] {
        let (status, message) = SHARED.error("/v1/embeddings", body);
        assert!(status == 400 && message.contains(expected), "{message}");
    }
}

#[test]
fn labels_are_told_apart() {
    let labels = [
        "a white dog on a green background",
        "a red square on a blue background",
    ];
    let answer = SHARED.ok(
        "/v1/classify",
        json!({"image": picture_url(), "labels": labels}),
    );
    let probability = |index: usize| answer["labels"][index]["probability"].as_f64().unwrap();
    assert!((probability(0) + probability(1) - 1.0).abs() < 1e-3);
    assert!(probability(1) > probability(0), "{answer}");
    assert_eq!(answer["labels"][1]["label"], labels[1]);
    assert_eq!(
        SHARED
            .error(
                "/v1/classify",
                json!({"image": picture_url(), "labels": ["one"]})
            )
            .0,
        400
    );
}

#[test]
fn wrong_codes_are_explained() {
    let position = |code: i64| json!([code, code, code, code]);
    let grid = |code: i64| json!(vec![vec![position(code); 8]; 8]);
    SHARED.ok("/v1/decode", json!({"codes": grid(511)}));
    for codes in [
        grid(512),
        grid(-1),
        json!([[[0]]]),
        json!([]),
        json!("codes"),
        json!([[[1.5]]]),
        json!(null),
    ] {
        let (status, message) = SHARED.error("/v1/decode", json!({"codes": codes}));
        assert!(status == 400 && message.contains("code"), "{message}");
    }
    assert_eq!(SHARED.error("/v1/encode", json!({})).0, 400);
    assert_eq!(
        SHARED.error("/v1/reconstruct", json!({"image": "x"})).0,
        400
    );
}
