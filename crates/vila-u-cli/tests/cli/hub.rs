//! Models of the Hugging Face Hub: a server on this machine answers as the Hub does.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use serde_json::json;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Every file below a folder, by its path from there.
fn files(folder: &Path, below: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.join(below)).unwrap();
    let mut all = Vec::new();
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        if entry.path().is_dir() {
            all.extend(files(folder, &path));
        } else {
            all.push(path);
        }
    }
    all
}

/// Answers one request about `org/model`, which is `folder` and lists `extra` as well.
fn answer(stream: TcpStream, folder: &Path, extra: &[&str]) {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_string());
    }
    let target = lines[0].split(' ').nth(1).unwrap();
    let mut stream = reader.into_inner();
    if target.starts_with("/api/models/org/model/revision/main") {
        let mut siblings: Vec<_> = files(folder, "")
            .into_iter()
            .map(|name| {
                let size = fs::metadata(folder.join(&name)).unwrap().len();
                json!({"rfilename": name, "size": size})
            })
            .collect();
        siblings.extend(
            extra
                .iter()
                .map(|name| json!({"rfilename": name, "size": 1})),
        );
        let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        return;
    }
    let name = target.strip_prefix("/org/model/resolve/main/");
    let Some(bytes) = name.and_then(|name| fs::read(folder.join(name)).ok()) else {
        let _ = stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let range = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let range = value.strip_prefix("bytes=")?;
        name.eq_ignore_ascii_case("range")
            .then(|| range.to_string())
    });
    let range = range.unwrap_or("0-".into());
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(bytes.len() - 1);
    let part = &bytes[first..=last];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        part.len(),
        bytes.len(),
        name.unwrap().replace('/', "-"),
    )
    .unwrap();
    let _ = stream.write_all(part);
}

/// Where a Hub answers that has `org/model`.
fn hub(folder: PathBuf, extra: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &folder, extra);
        }
    });
    address
}

fn info(home: &Path, endpoint: &str) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(["info", "hf:org/model", "--json"])
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", endpoint)
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_HUB_CACHE")
        .output()
        .unwrap()
}

fn checkpoint() -> PathBuf {
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../vila-u/tests/golden/tiny-d4/checkpoint"
    )
    .into()
}

#[test]
fn a_model_of_the_hub_is_downloaded_once() {
    let home = TempDir::new().unwrap();
    let first = info(home.path(), &hub(checkpoint(), &[]));
    let message = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success(), "{message}");
    let snapshot = home
        .path()
        .join("hub/models--org--model/snapshots")
        .join(COMMIT);
    for name in files(&checkpoint(), "") {
        assert_eq!(
            fs::read(snapshot.join(&name)).unwrap(),
            fs::read(checkpoint().join(&name)).unwrap(),
            "{name}"
        );
    }
    // From then on nobody is asked: nothing answers at this address.
    let again = info(home.path(), "http://127.0.0.1:9");
    assert_eq!(again.stdout, first.stdout);
}

#[test]
fn what_cannot_be_downloaded_is_said() {
    for (endpoint, reason) in [
        (hub(checkpoint(), &["../../../outside"]), "outside"),
        (hub(checkpoint(), &["not-there.bin"]), "404"),
        ("http://127.0.0.1:9".to_string(), "onnection refused"),
    ] {
        let home = TempDir::new().unwrap();
        let output = info(home.path(), &endpoint);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("hf:") || message.contains("org/model"),
            "{message}"
        );
        assert!(message.contains(reason), "{message}");
        assert!(!home.path().parent().unwrap().join("outside").exists());
    }
}
