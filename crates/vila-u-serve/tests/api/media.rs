//! Pictures and videos that are not what they seem.

use serde_json::{Value, json};
use vila_u::image::{ImageFormat, RgbImage};

use super::{Client, Options, SHARED, data_url, file, picture, start};

fn ask(client: &Client, part: Value) -> super::Answer {
    let content = json!([part, {"type": "text", "text": "What is it?"}]);
    client.post(
        "/v1/chat/completions",
        json!({"messages": [{"role": "user", "content": content}], "max_tokens": 4}),
    )
}

fn image(url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url}})
}

fn video(url: &str) -> Value {
    json!({"type": "video_url", "video_url": {"url": url}})
}

/// CRC-32 of ISO 3309, as PNG has it.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        if crc & 1 == 1 {
            0xedb8_8320 ^ (crc >> 1)
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

/// A small file that says that it is of many pixels each way.
fn bomb(side: u16) -> Vec<u8> {
    let mut bomb = file(&RgbImage::new(1, 1), ImageFormat::Png);
    let [high, low] = side.to_be_bytes();
    bomb[16..24].copy_from_slice(&[0, 0, high, low, 0, 0, high, low]);
    let crc = crc(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&crc);
    bomb
}

#[test]
fn bombs_and_damage_are_refused() {
    let whole = file(&picture(), ImageFormat::Png);
    let jpeg = file(&picture(), ImageFormat::Jpeg);
    let mut gif =
        b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x01\x00\x00;"
            .to_vec();
    gif.truncate(40);
    // A longer file may not take more.
    let padded = [bomb(13_000), vec![0; 8 << 20]].concat();
    for (bytes, expected) in [
        (bomb(0xffff), "65535 x 65535"),
        (padded, "13000 x 13000"),
        (gif, "pixels"),
        (whole[..whole.len() / 2].to_vec(), "decoded"),
        (jpeg[..jpeg.len() / 2].to_vec(), "cut short"),
        (b"<html>".to_vec(), "web page"),
        (Vec::new(), "empty"),
    ] {
        let url = data_url("image/png", &bytes);
        let (status, message) = ask(&SHARED, image(&url)).error();
        assert!(status == 400 && message.contains(expected), "{message}");
        let (status, message) = ask(&SHARED, video(&url)).error();
        assert!(status == 400 && !message.contains("/tmp"), "{message}");
    }
    let answer = ask(&SHARED, image(&data_url("image/png", &bomb(0xffff))));
    assert_eq!(answer.json()["error"]["param"], "messages[0].content[0]");
    // What only another program decodes is not given to it.
    let webm = [b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm".as_slice(), &[0; 64]].concat();
    let (status, message) = ask(&SHARED, video(&data_url("video/webm", &webm))).error();
    assert!(status == 400 && message.contains("H.264"), "{message}");
}

#[test]
fn animations_are_videos() {
    let frames = [picture(), RgbImage::new(64, 64)];
    let rate = vila_u::media::video::RATE;
    for format in [
        vila_u::media::video::VideoFormat::Gif,
        vila_u::media::video::VideoFormat::WebP,
    ] {
        let bytes = vila_u::media::video::encode(&frames, rate, format).unwrap();
        let answer = ask(&SHARED, video(&data_url("image/gif", &bytes)));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let tokens = answer.json()["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(tokens > 8 * 64, "{tokens}");
        let still = ask(&SHARED, image(&data_url("image/gif", &bytes)));
        assert!(still.json()["usage"]["prompt_tokens"].as_u64().unwrap() < 2 * 64 + 64);
    }
}

#[test]
fn other_servers_are_asked_only_where_allowed_and_public() {
    let server = start(Options {
        allow_remote_media: true,
        ..Options::default()
    });
    let client = Client::of(&server);
    let own = format!("http://{}/assets/favicon.svg", client.address);
    let port = client.address.port();
    for url in [
        own.clone(),
        format!("http://localhost:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0x7f000001:{port}/"),
        format!("HTTP://2130706433:{port}/"),
        "http://169.254.169.254/latest/meta-data/".into(),
        "http://10.0.0.1/".into(),
        "https://192.168.0.1/a.png".into(),
        "http://user:password@127.0.0.1/".into(),
        "http:///".into(),
        "http://".into(),
    ] {
        let (status, message) = ask(&client, image(&url)).error();
        assert!(
            status == 400 && message.contains("fetched"),
            "{url}: {message}"
        );
    }
    // Nothing arrived.
    let metrics = client.get("/metrics").text();
    assert!(!metrics.contains("/assets/"), "{metrics}");
    let (status, message) = ask(&SHARED, image(&own)).error();
    assert!(
        status == 400 && message.contains("--allow-remote-media"),
        "{message}"
    );
    assert_eq!(server.stop(), 0);
}

#[test]
fn files_of_one_folder_may_be_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("red.png");
    std::fs::write(&path, file(&picture(), ImageFormat::Png)).unwrap();
    let server = start(Options {
        media_path: Some(folder.path().into()),
        ..Options::default()
    });
    let client = Client::of(&server);
    let answer = ask(&client, image(&format!("file://{}", path.display())));
    assert_eq!(answer.status, 200, "{}", answer.text());
    for url in [
        "file:///etc/passwd".to_string(),
        format!("file://{}/../x", folder.path().display()),
    ] {
        let (status, message) = ask(&client, image(&url)).error();
        assert!(
            status == 400 && message.contains("no such file"),
            "{message}"
        );
    }
    assert_eq!(server.stop(), 0);
}
