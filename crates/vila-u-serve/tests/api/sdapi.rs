//! What clients of the Stable Diffusion web UI ask.

use std::{thread::sleep, time::Duration};

use serde_json::{Value, json};

use super::{Client, Options, SHARED, decoded, start};

/// In the order in which Open WebUI and SillyTavern do.
#[test]
fn menus_are_filled_and_pictures_generated() {
    let model = SHARED.get("/sdapi/v1/options").json()["sd_model_checkpoint"].clone();
    assert_eq!(model, "nano");
    let models = SHARED.get("/sdapi/v1/sd-models").json();
    assert_eq!(
        (&models[0]["title"], &models[0]["model_name"]),
        (&model, &model)
    );
    for list in [
        "samplers",
        "schedulers",
        "upscalers",
        "latent-upscale-modes",
        "sd-vae",
        "sd-modules",
        "loras",
    ] {
        assert!(
            SHARED.get(&format!("/sdapi/v1/{list}")).json().is_array(),
            "{list}"
        );
    }
    let described = SHARED.get("/openapi.json").json();
    let described = &described["paths"]["/sdapi/v1/samplers"]["get"]["responses"];
    assert!(described["200"].is_object() && described["401"].is_object());
    assert!(SHARED.get("/sdapi/v1/samplers").json()[0]["name"].is_string());
    assert_eq!(
        SHARED.ok("/sdapi/v1/options", json!({"sd_model_checkpoint": "other"})),
        Value::Null
    );
    let answer = SHARED.ok(
        "/sdapi/v1/txt2img",
        json!({"prompt": "a red heart", "negative_prompt": "", "sampler_name": "Euler a", "scheduler": "Karras",
               "steps": 20, "cfg_scale": 3, "width": 96, "height": 96.0, "seed": -1, "batch_size": 2, "n_iter": 1,
               "restore_faces": false, "enable_hr": null, "override_settings": {}}),
    );
    let images = answer["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(decoded(&images[0]).dimensions(), (96, 96));
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert!(info["seed"].is_u64() && info["all_seeds"].as_array().unwrap().len() == 2);
    assert_eq!(
        SHARED
            .error(
                "/sdapi/v1/txt2img",
                json!({"prompt": "x", "batch_size": 99})
            )
            .0,
        400
    );
    assert_eq!(
        SHARED
            .error("/sdapi/v1/txt2img", json!({"prompt": "x", "width": 9999}))
            .0,
        400
    );
    let large = json!({"prompt": "x", "width": 2048, "height": 2048, "batch_size": 64});
    assert_eq!(SHARED.error("/sdapi/v1/txt2img", large).0, 400);
}

#[test]
fn generation_is_watched_and_interrupted() {
    let server = start(Options::default());
    let client = Client::of(&server);
    let idle = client.get("/sdapi/v1/progress").json();
    assert_eq!(
        (idle["progress"].as_f64(), &idle["state"]["job_count"]),
        (Some(0.0), &json!(0))
    );
    let generation = {
        let client = client.clone();
        std::thread::spawn(move || {
            client.ok(
                "/sdapi/v1/txt2img",
                json!({"prompt": "a dog", "batch_size": 64}),
            )
        })
    };
    while client.get("/sdapi/v1/progress").json()["progress"].as_f64() <= Some(0.0) {
        sleep(Duration::from_millis(10));
    }
    client.ok("/sdapi/v1/interrupt", json!({}));
    let answer = generation.join().unwrap();
    assert!(answer["images"].as_array().unwrap().len() < 64);
    client.wait_until_idle(Duration::from_secs(5));
    assert_eq!(
        client.get("/sdapi/v1/progress").json()["state"]["job_count"],
        0
    );
    assert_eq!(server.stop(), 0);
}
