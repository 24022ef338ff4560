//! Videos that are made or were made.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::task::AbortHandle;
use utoipa::ToSchema;
use vila_u::{
    engine::Event,
    media::{sheet, video},
};

use crate::{
    api::models::ModelCard,
    app::{Shared, new_id, now},
    errors::ApiError,
    file_store::File,
    pictures::{Output, encoding, to_file, to_video},
    worker::Events,
};

/// Seconds after their end when jobs are forgotten, and how many are kept at most.
const LIFETIME: u64 = 3600;
const MAX_KEPT: usize = 1000;
/// Characters of a prompt that are kept; few that fit a model are longer.
const MAX_PROMPT: usize = 4000;

/// A video that is made or was made
#[derive(Clone, Serialize, ToSchema)]
pub struct Video {
    pub id: String,
    object: &'static str,
    model: String,
    status: Status,
    /// Percent
    pub progress: usize,
    created_at: u64,
    completed_at: Option<u64>,
    /// An hour after its end
    expires_at: Option<u64>,
    /// Its first 4000 characters
    prompt: String,
    seed: u64,
    seconds: String,
    size: String,
    error: Option<JobError>,
}

impl Video {
    pub fn new(card: &ModelCard, prompt: &str, seed: u64) -> Self {
        let size = card.image_size;
        let seconds = card.video_frames as f64 / f64::from(video::RATE.get());
        Self {
            id: new_id("video_"),
            object: "video",
            model: card.id.clone(),
            status: Status::Queued,
            progress: 0,
            created_at: now(),
            completed_at: None,
            expires_at: None,
            prompt: prompt.chars().take(MAX_PROMPT).collect(),
            seed,
            seconds: seconds.to_string(),
            size: format!("{size}x{size}"),
            error: None,
        }
    }

    pub fn status(&self) -> Status {
        self.status
    }

    /// The first end counts.
    pub fn end(&mut self, status: Status) {
        if !self.is_ended() {
            let now = now();
            self.status = status;
            self.completed_at = Some(now);
            self.expires_at = Some(now + LIFETIME);
        }
    }

    fn is_ended(&self) -> bool {
        self.completed_at.is_some()
    }

    fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|time| time <= now())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Clone, Serialize, ToSchema)]
pub struct JobError {
    code: &'static str,
    message: String,
}

/// All jobs, in the order in which they came.
#[derive(Default)]
pub struct Jobs(Mutex<BTreeMap<u64, Job>>);

pub struct Job {
    pub video: Arc<Mutex<Video>>,
    pub abort: AbortHandle,
}

impl Jobs {
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Job>> {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| !lock(&job.video).is_expired());
        jobs
    }

    pub fn add(&self, video: Arc<Mutex<Video>>, abort: AbortHandle) {
        let mut jobs = self.lock();
        let number = jobs.last_key_value().map_or(0, |(number, _)| number + 1);
        jobs.insert(number, Job { video, abort });
        while jobs.len() > MAX_KEPT {
            let ended = jobs.iter().find(|(_, job)| lock(&job.video).is_ended());
            let Some(ended) = ended.map(|(number, _)| *number) else {
                break;
            };
            jobs.remove(&ended);
        }
    }

    /// What `use_job` makes of the job of that name.
    pub fn with<T>(&self, id: &str, use_job: impl FnOnce(&Job) -> T) -> Result<T, ApiError> {
        let jobs = self.lock();
        let job = jobs.values().find(|job| lock(&job.video).id == id);
        job.map(use_job).ok_or_else(|| unknown(id))
    }

    pub fn remove(&self, id: &str) {
        self.lock().retain(|_, job| lock(&job.video).id != id);
    }
}

pub fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no video {id}, or no longer: make it again"
    ))
}

pub fn lock(video: &Mutex<Video>) -> MutexGuard<'_, Video> {
    video.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes into the job what happens to it.
pub async fn follow(app: Shared, video: Arc<Mutex<Video>>, events: Events) {
    let outcome = make(&app, &video, events).await;
    let mut video = lock(&video);
    if video.is_ended() {
        return;
    }
    match outcome {
        Ok(()) => {
            video.progress = 100;
            video.end(Status::Completed);
        }
        Err(error) => {
            video.error = Some(JobError {
                code: if error.status.is_server_error() {
                    "server_error"
                } else {
                    "invalid_request"
                },
                message: error.message,
            });
            video.end(Status::Failed);
        }
    }
}

async fn make(app: &Shared, video: &Mutex<Video>, mut events: Events) -> Result<(), ApiError> {
    let id = lock(video).id.clone();
    while let Some((_, event)) = events.next().await? {
        match event {
            Event::Started => {
                let mut video = lock(video);
                if !video.is_ended() {
                    video.status = Status::InProgress;
                }
            }
            // The last percent is the file's.
            Event::Progress { done, total } => lock(video).progress = 99 * done / total.max(1),
            Event::Generated(generated) => {
                let [mp4, png] = encoding(app, move || {
                    let frames = &generated.frames;
                    let sheet = sheet::side_by_side(frames);
                    Ok([to_video(frames)?, to_file(&sheet, Output::default())?])
                })
                .await?;
                for (name, content, mime) in [
                    (id.clone(), mp4, "video/mp4"),
                    (frames(&id), png, "image/png"),
                ] {
                    let content = Bytes::from(content);
                    app.files.put(name, File { content, mime });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

pub fn frames(id: &str) -> String {
    format!("{id}.frames")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::runtime::Runtime;

    use super::*;

    fn video() -> Video {
        Video {
            id: new_id("video_"),
            object: "video",
            model: "nano".into(),
            status: Status::InProgress,
            progress: 50,
            // Longer ago than jobs are kept.
            created_at: now() - 2 * LIFETIME,
            completed_at: None,
            expires_at: None,
            prompt: String::new(),
            seed: 0,
            seconds: String::new(),
            size: String::new(),
            error: None,
        }
    }

    #[test]
    fn the_hour_begins_at_the_end() {
        let runtime = Runtime::new().unwrap();
        let abort = runtime.spawn(async {}).abort_handle();
        let jobs = Jobs::default();
        let video = Arc::new(Mutex::new(video()));
        jobs.add(video.clone(), abort);
        assert_eq!(jobs.lock().len(), 1);
        lock(&video).end(Status::Completed);
        assert_eq!(lock(&video).expires_at, Some(now() + LIFETIME));
        assert_eq!(jobs.lock().len(), 1);
        lock(&video).expires_at = Some(now() - 1);
        assert!(jobs.lock().is_empty());
    }

    #[test]
    fn the_first_end_counts() {
        let mut video = video();
        video.end(Status::Cancelled);
        video.end(Status::Completed);
        assert!(video.status() == Status::Cancelled);
    }
}
