//! Generated files, kept for clients that come back for them: a bounded number of bytes, for a bounded time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub content: Bytes,
    pub mime: &'static str,
}

pub struct FileStore {
    max_bytes: usize,
    lifetime: Duration,
    files: Mutex<HashMap<String, (Instant, File)>>,
}

impl FileStore {
    pub fn new(max_bytes: usize, lifetime: Duration) -> Self {
        Self {
            max_bytes,
            lifetime,
            files: Mutex::default(),
        }
    }

    /// The oldest files make room.
    pub fn put(&self, id: String, file: File) {
        let mut files = self.lock();
        files.insert(id, (Instant::now(), file));
        let bytes = |(_, file): &(Instant, File)| file.content.len();
        while files.values().map(bytes).sum::<usize>() > self.max_bytes {
            let oldest = files.iter().min_by_key(|(_, (since, _))| *since);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                break;
            };
            files.remove(&oldest);
        }
    }

    pub fn get(&self, id: &str) -> Option<File> {
        self.lock().get(id).map(|(_, file)| file.clone())
    }

    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, File)>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, (since, _)| since.elapsed() < self.lifetime);
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room_and_all_expire() {
        let store = FileStore::new(10, Duration::from_millis(50));
        let put = |id: &str, bytes: &'static [u8]| {
            let content = Bytes::from_static(bytes);
            let mime = "image/png";
            store.put(id.into(), File { content, mime });
        };
        for id in ["a", "b", "c"] {
            put(id, b"1234");
            std::thread::sleep(Duration::from_millis(1));
        }
        let has = |id: &str| store.get(id).is_some();
        assert_eq!((has("a"), has("b"), has("c")), (false, true, true));
        store.remove("c");
        assert_eq!((has("b"), has("c")), (true, false));
        std::thread::sleep(Duration::from_millis(60));
        assert!(!has("b"));
        put("large", b"12345678901");
        assert!(!has("large"));
    }
}
