//! Batches are made on a thread of their own, a few ahead, while the step computes.
//!
//! A batch is a function of its index alone, so a resumed run reads the same data without any
//! reader state.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::{Error, Result};

/// Makes the batch of an index; runs on the prefetch thread.
pub type Reader<B> = Box<dyn Fn(u64) -> Result<B> + Send>;

/// How many batches may wait; enough to bridge a slow one, few enough to stay small.
const AHEAD: usize = 2;

pub struct Prefetch<B> {
    batches: Receiver<Result<B>>,
}

impl<B: Send + 'static> Prefetch<B> {
    /// Starts reading at batch `first`. The thread ends when this is dropped.
    pub fn start(reader: Reader<B>, first: u64) -> Self {
        let (sender, batches) = sync_channel(AHEAD);
        thread::spawn(move || {
            for index in first.. {
                let batch = reader(index);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self { batches }
    }

    /// The next batch in order.
    pub fn next(&self) -> Result<B> {
        self.batches
            .recv()
            .unwrap_or_else(|_| Err(Error::failed("the data reader stopped unexpectedly")))
    }
}
