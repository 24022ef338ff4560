//! Pictures and videos of requests: data URLs, remote ones where that is allowed, and files of one folder.

use std::{borrow::Cow, fs, io::Read, path::Path};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use vila_u::media::{
    self, Picture,
    preprocess::{ResizeMode, square},
    video::{self, FrameSampling},
};

use crate::{app::Shared, body::MAX_BYTES, errors::ApiError};

/// Encoders differ about the padding at the end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where a picture or a video is.
#[derive(Deserialize, ToSchema)]
#[schema(as = MediaAddress)]
#[serde(untagged, expecting = "write {\"url\": ...}")]
pub enum Address {
    Url(String),
    Object { url: String },
}

impl Address {
    pub fn url(self) -> String {
        match self {
            Self::Url(url) | Self::Object { url } => url,
        }
    }

    /// Whether it is a data URL that says that it is a video.
    pub fn is_video(&self) -> bool {
        let (Self::Url(url) | Self::Object { url }) = self;
        begins(url, "data:video/")
    }
}

/// How the model sees what is at a URL. Pictures are made as small as it sees them at once: a request that waits
/// takes little memory, whatever it was sent.
#[derive(Clone, Copy)]
pub enum Kind {
    Picture(ResizeMode),
    /// So many frames.
    Video(usize, ResizeMode),
}

/// What was at a URL: one picture, or the frames of a video.
pub enum Media {
    Picture(Picture),
    Video(Vec<Picture>),
}

/// Reads what is at `url`, which the request gave in its field `param`. A video is read as one where a picture was
/// expected: not all clients tell them apart.
pub async fn load(
    app: &Shared,
    url: String,
    kind: Kind,
    size: usize,
    param: &str,
) -> Result<Media, ApiError> {
    let at = |error: ApiError| error.param(param);
    if url.len() > MAX_BYTES {
        return Err(at(ApiError::invalid("the URL is too long")));
    }
    let remote = ["http:", "https:"]
        .iter()
        .any(|scheme| begins(&url, scheme));
    let source = if remote {
        if !app.options.allow_remote_media {
            return Err(at(ApiError::invalid(
                "this server fetches nothing from other servers: send a data URL (data:image/png;base64,...), or start \
                 it with --allow-remote-media",
            )));
        }
        let (bytes, permit) = app.remote.fetch(url).await.map_err(at)?;
        Source::Remote(bytes, permit)
    } else {
        Source::Url(url)
    };
    let permit = app.codecs.clone().acquire_owned().await;
    let folder = app.options.media_path.clone();
    let decoded = tokio::task::spawn_blocking(move || {
        let (bytes, fetched) = match source {
            Source::Remote(bytes, permit) => (bytes, Some(permit)),
            Source::Url(url) => (content(&url, folder.as_deref())?, None),
        };
        let media = decode(&bytes, kind, size);
        drop((permit, fetched));
        media
    });
    match decoded.await {
        Ok(media) => media.map_err(at),
        // A decoder that panics at a damaged file.
        Err(_) => Err(at(ApiError::invalid(
            "cannot be decoded: the file is damaged",
        ))),
    }
}

/// The same where a video makes no sense.
pub async fn picture(
    app: &Shared,
    url: String,
    mode: ResizeMode,
    size: usize,
    param: &str,
) -> Result<Picture, ApiError> {
    match load(app, url, Kind::Picture(mode), size, param).await? {
        Media::Picture(picture) => Ok(picture),
        Media::Video(_) => {
            Err(ApiError::invalid("a video is no picture: send a picture").param(param))
        }
    }
}

enum Source {
    Remote(Vec<u8>, OwnedSemaphorePermit),
    Url(String),
}

fn begins(url: &str, scheme: &str) -> bool {
    let start = url.get(..scheme.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// What a data URL holds, or a file.
fn content(url: &str, folder: Option<&Path>) -> Result<Vec<u8>, ApiError> {
    if begins(url, "data:") {
        return data(&url["data:".len()..]);
    }
    if begins(url, "file://") {
        return file(&url["file://".len()..], folder);
    }
    Err(ApiError::invalid(
        "not a URL that can be read: send a data URL (data:image/png;base64,...)",
    ))
}

fn data(url: &str) -> Result<Vec<u8>, ApiError> {
    let Some((head, payload)) = url.split_once(',') else {
        return Err(ApiError::invalid(
            "a data URL without a comma: write data:image/png;base64,...",
        ));
    };
    let payload = unescape(payload.as_bytes());
    let base64 = head
        .rsplit(';')
        .next()
        .is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
    if !base64 {
        return Ok(payload.into_owned());
    }
    // Lines, and the alphabet for URLs.
    let plain = |byte: &u8| match byte {
        byte if byte.is_ascii_whitespace() => None,
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        byte => Some(*byte),
    };
    let usual = |byte: &u8| plain(byte) == Some(*byte);
    let payload = if payload.iter().all(usual) {
        payload
    } else {
        Cow::Owned(payload.iter().filter_map(plain).collect())
    };
    let bytes = BASE64.decode(payload.as_ref());
    bytes.map_err(|error| {
        ApiError::invalid(format!("the base64 of the data URL is damaged: {error}"))
    })
}

/// `%41` is `A`; what is no escape stays as it is.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| (*text.get(at)? as char).to_digit(16);
    let (mut bytes, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < text.len() {
        let escaped = (text[at] == b'%').then(|| Some(16 * digit(at + 1)? + digit(at + 2)?));
        match escaped.flatten() {
            Some(byte) => {
                bytes.push(byte as u8);
                at += 3;
            }
            None => {
                bytes.push(text[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(bytes)
}

/// A file of the folder that is open to clients; no links lead out of it, and nothing is said of files outside.
fn file(path: &str, folder: Option<&Path>) -> Result<Vec<u8>, ApiError> {
    let Some(folder) = folder else {
        return Err(ApiError::invalid(
            "this server reads no files: send a data URL, or start it with --media-path FOLDER",
        ));
    };
    let refused = || ApiError::invalid("no such file under the folder of --media-path");
    let path = path.strip_prefix("localhost").unwrap_or(path);
    let path = unescape(path.as_bytes());
    let path = std::str::from_utf8(&path).map_err(|_| refused())?;
    let inside = |folder: &Path| {
        Some((
            folder.canonicalize().ok()?,
            Path::new(path).canonicalize().ok()?,
        ))
    };
    let (folder, path) = inside(folder).ok_or_else(refused)?;
    if !path.starts_with(folder) || !path.is_file() {
        return Err(refused());
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|_| refused())?;
    if bytes.len() > MAX_BYTES {
        return Err(ApiError::invalid(format!(
            "the file is larger than {} MB",
            MAX_BYTES >> 20
        )));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8], kind: Kind, size: usize) -> Result<Media, ApiError> {
    let wrong = |error: vila_u::Error| ApiError::invalid(error.to_string());
    let small = |picture: &Picture, mode| square(picture, size as u32, mode).into();
    match kind {
        Kind::Picture(mode) => {
            let picture = media::decode(bytes).map_err(wrong)?;
            Ok(Media::Picture(small(&picture, mode)))
        }
        Kind::Video(count, mode) => {
            let frames = video::decode(bytes, count, FrameSampling::Inference).map_err(wrong)?;
            let frames = frames.iter().map(|frame| small(frame, mode));
            Ok(Media::Video(frames.collect()))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_of_every_spelling() {
        for url in [
            "data:text/plain;base64,aGk_",
            "data:text/plain;charset=utf-8;BASE64,aGk/",
            "DATA:;base64,aG\n k%2F",
            "data:,hi?",
            "data:,h%69?",
        ] {
            let bytes = content(url, None).unwrap();
            assert!(bytes == b"hi?", "{url}: {bytes:?}");
        }
        assert_eq!(content("data:;base64,aGk", None).unwrap(), b"hi");
        assert_eq!(content("data:,100%", None).unwrap(), b"100%");
        for url in [
            "data:image/png",
            "data:;base64,a",
            "data:;base64,ä",
            "",
            "picture.png",
            "ftp://x/y",
        ] {
            assert!(content(url, None).is_err(), "{url}");
        }
    }

    #[test]
    fn files_are_read_under_one_folder_alone() {
        let home = std::env::temp_dir().join(format!("vila-u-media-{}", std::process::id()));
        let folder = home.join("open");
        fs::create_dir_all(folder.join("a b")).unwrap();
        fs::write(folder.join("a b/c.txt"), "seen").unwrap();
        fs::write(home.join("secret.txt"), "hidden").unwrap();
        let open = folder.display();
        let read = |path: &str| content(&format!("file://{path}"), Some(&folder));
        assert_eq!(read(&format!("{open}/a%20b/c.txt")).unwrap(), b"seen");
        assert_eq!(
            read(&format!("localhost{open}/a b/../a b/c.txt")).unwrap(),
            b"seen"
        );
        let mut refused = vec![
            format!("{open}/../secret.txt"),
            format!("{open}/%2e%2e/secret.txt"),
            format!("{open}/none.txt"),
            format!("{open}"),
            "/etc/passwd".to_string(),
            String::new(),
        ];
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(home.join("secret.txt"), folder.join("link.txt")).unwrap();
            refused.push(format!("{open}/link.txt"));
        }
        for path in refused {
            let error = read(&path).unwrap_err();
            assert!(
                error.message.contains("--media-path"),
                "{path}: {}",
                error.message
            );
        }
        assert!(content(&format!("file://{open}/a b/c.txt"), None).is_err());
        fs::remove_dir_all(home).unwrap();
    }
}
