//! What all requests share.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Semaphore;

use crate::{
    api::{a1111::Txt2ImgJobs, models::ModelCard, videos::Jobs},
    errors::ApiError,
    file_store::FileStore,
    metrics::Metrics,
    remote::Remote,
    worker::Worker,
};

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    pub host: String,
    /// 0 for any that is free.
    pub port: u16,
    /// What clients must know to use the model.
    pub api_key: Option<String>,
    /// Web pages of these origins may use the server, and it may be reached by their names; `*` for all.
    pub cors: Vec<String>,
    /// How long running requests may take to finish once the server is asked to end.
    pub drain: Duration,
    /// Requests that may wait.
    pub max_queue: usize,
    /// Whether pictures and videos are fetched from public addresses.
    pub allow_remote_media: bool,
    /// The folder under which `file://` may be read.
    pub media_path: Option<PathBuf>,
    /// What the model is called.
    pub model: String,
    /// What it is computed on and in, as `GET /v1/models` says it.
    pub device: String,
    pub dtype: String,
    /// Whether a line is written for each request, on standard error.
    pub access_log: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8000,
            api_key: None,
            cors: Vec::new(),
            drain: Duration::from_secs(30),
            max_queue: 256,
            allow_remote_media: false,
            media_path: None,
            model: "nano".into(),
            device: "cpu".into(),
            dtype: "f32".into(),
            access_log: false,
        }
    }
}

/// Bytes of request bodies that may be in memory at once.
const MAX_BODY_MEMORY: usize = 256 << 20;

/// Pictures and videos that are decoded or encoded at the same time, however many cores there are.
const MAX_CODECS: usize = 8;

/// Bytes and seconds that files and videos for later are kept.
const MAX_FILE_MEMORY: usize = 256 << 20;
const FILE_LIFETIME: Duration = Duration::from_secs(3600);

/// Handlers get this.
pub type Shared = Arc<App>;

pub struct App {
    pub options: Options,
    /// Whether only this machine reaches it.
    pub loopback: bool,
    pub started: u64,
    pub metrics: Arc<Metrics>,
    /// Permits are bytes of bodies.
    pub bodies: Arc<Semaphore>,
    /// Permits are pictures and videos that are decoded or encoded at the same time, each of which may take hundreds of
    /// megabytes.
    pub codecs: Arc<Semaphore>,
    pub remote: Remote,
    /// Generated files, for `response_format: url` and finished videos.
    pub files: FileStore,
    pub jobs: Jobs,
    pub txt2img: Txt2ImgJobs,
    loaded: OnceLock<Loaded>,
    draining: AtomicBool,
}

/// The model, once it is there.
pub struct Loaded {
    pub worker: Worker,
    pub card: ModelCard,
}

impl App {
    pub fn new(options: Options, loopback: bool) -> Self {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        Self {
            options,
            loopback,
            started: now(),
            metrics: Arc::default(),
            bodies: Arc::new(Semaphore::new(MAX_BODY_MEMORY)),
            codecs: Arc::new(Semaphore::new(cores.min(MAX_CODECS))),
            remote: Remote::new(),
            files: FileStore::new(MAX_FILE_MEMORY, FILE_LIFETIME),
            jobs: Jobs::default(),
            txt2img: Txt2ImgJobs::default(),
            loaded: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    pub fn set_loaded(&self, loaded: Loaded) {
        let _ = self.loaded.set(loaded);
    }

    pub fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    /// No new requests from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The model for a new request.
    pub fn model(&self) -> Result<&Loaded, ApiError> {
        if self.draining() {
            return Err(ApiError::unavailable(
                "the server is shutting down: ask another one, or this one again later",
            ));
        }
        self.loaded.get().ok_or_else(|| {
            ApiError::unavailable("the model is still being loaded: try again in a moment")
        })
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A name that nobody guesses.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}{:032x}", rand::random::<u128>())
}
