//! The thread that owns the engine, and how the rest of the server talks to it.
//!
//! Requests and short jobs go to it through a queue whose length is bounded; what happens to a request comes back
//! through a channel of its own. Whoever drops the channel's end has its request stopped within a token.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc as channel, oneshot},
    time::timeout,
};
use vila_u::{
    Error, Pipeline, Result,
    engine::{Engine, EngineOptions, Event, OnEvent, Request},
};

use crate::{
    engine_loop::{EngineLoop, Message},
    errors::ApiError,
    metrics::Metrics,
};

/// Events of a request that wait to be read. There is at most one for each token of a reply, and no context is as long.
const MAX_EVENTS: usize = 1 << 16;
/// So many waiting events, and progress is left out.
const CROWDED: usize = 64;
/// Progress comes at most this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Errors that come within this time can be the status of an answer, even if it streams.
const FIRST_EVENT_TIMEOUT: Duration = Duration::from_secs(1);

/// As much as a main thread usually has.
const STACK: usize = 8 << 20;

/// The way to the engine.
pub struct Worker {
    inbox: mpsc::Sender<Message>,
    shared: Arc<QueueState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct QueueState {
    most_waiting: usize,
    waiting: AtomicUsize,
    unfinished: AtomicUsize,
    ending: AtomicBool,
    metrics: Arc<Metrics>,
}

/// What happens to the requests that were submitted together, each event with the number of its request among them.
pub struct Events {
    receiver: channel::Receiver<(usize, Event)>,
    left: usize,
    /// Received by [`Self::begin`].
    begun: VecDeque<(usize, Event)>,
}

impl Events {
    /// The next event; nothing after the last request has finished. A failure of any is an error.
    pub async fn next(&mut self) -> std::result::Result<Option<(usize, Event)>, ApiError> {
        match self.begun.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.receive().await,
        }
    }

    /// Waits a moment for more than the start: a refusal comes at once.
    pub async fn begin(&mut self) -> std::result::Result<(), ApiError> {
        let begun = async {
            while let Some((index, event)) = self.receive().await? {
                let started = matches!(event, Event::Started);
                self.begun.push_back((index, event));
                if !started {
                    break;
                }
            }
            Ok(())
        };
        timeout(FIRST_EVENT_TIMEOUT, begun).await.unwrap_or(Ok(()))
    }

    async fn receive(&mut self) -> std::result::Result<Option<(usize, Event)>, ApiError> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.receiver.recv().await {
            Some((_, Event::Failed(error))) => Err(error.into()),
            Some((index, event)) => {
                if matches!(event, Event::Finished { .. }) {
                    self.left -= 1;
                }
                Ok(Some((index, event)))
            }
            None => Err(ApiError::failed(
                "the engine stopped in the middle of this request: try again",
            )),
        }
    }
}

impl Worker {
    /// Starts the thread; a usage error where the vision tower was loaded alone.
    pub fn start(
        pipeline: Arc<Pipeline>,
        most_waiting: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        // What the engine would say.
        pipeline.checkpoint()?;
        let shared = Arc::new(QueueState {
            most_waiting,
            waiting: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            metrics: metrics.clone(),
        });
        let (inbox, messages) = mpsc::channel();
        let thread = thread::Builder::new().name("engine".into());
        let thread = thread.stack_size(STACK).spawn(move || {
            if let Ok(engine) = Engine::new(&pipeline, EngineOptions::default()) {
                EngineLoop::new(engine, messages, metrics).run();
            }
        });
        let thread =
            thread.map_err(|error| Error::failed(format!("starting a thread: {error}")))?;
        Ok(Self {
            inbox,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Puts requests into the queue, all or none of them.
    pub fn submit(&self, requests: Vec<Request>) -> std::result::Result<Events, ApiError> {
        let left = requests.len();
        self.reserve(left)?;
        let slots: Vec<QueueSlot> = (0..left).map(|_| QueueSlot(self.shared.clone())).collect();
        let (sender, receiver) = channel::channel(left * MAX_EVENTS);
        for ((index, request), slot) in requests.into_iter().enumerate().zip(slots) {
            let on_event = self.on_event(index, sender.clone(), slot);
            self.send(Message::Request(Box::new(request), on_event))?;
        }
        let begun = VecDeque::new();
        Ok(Events {
            receiver,
            left,
            begun,
        })
    }

    /// A place in the queue for the jobs of one HTTP request, which come one after the other.
    pub fn slot(&self) -> std::result::Result<Arc<QueueSlot>, ApiError> {
        self.reserve(1)?;
        Ok(Arc::new(QueueSlot(self.shared.clone())))
    }

    /// Runs a short job between two steps of the engine.
    pub async fn call<T: Send + 'static>(
        &self,
        slot: &Arc<QueueSlot>,
        job: impl FnOnce(&Pipeline) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, ApiError> {
        let slot = slot.clone();
        let unfinished = Unfinished::new(&self.shared);
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Job(Box::new(move |pipeline| {
            if !sender.is_closed() {
                let result = job(pipeline);
                // Whoever has the answer may count on the place.
                drop((slot, unfinished));
                let _ = sender.send(result);
            }
        })))?;
        match receiver.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(ApiError::failed("the model failed at this request")),
        }
    }

    /// Waits until nothing is left to do.
    pub async fn idle(&self) {
        while self.unfinished() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Requests that are waiting or running.
    pub fn unfinished(&self) -> usize {
        self.shared.unfinished.load(Ordering::SeqCst)
    }

    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }

    /// Stops everything within a token, and the thread.
    pub fn end(&self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        let _ = self.inbox.send(Message::End);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }

    /// Counts requests as waiting, until their [`QueueSlot`]s are dropped. One for several images is let in whole
    /// wherever there is any place left, so that it is not refused for ever by a short queue.
    fn reserve(&self, count: usize) -> std::result::Result<(), ApiError> {
        let most = self.shared.most_waiting;
        let more = |waiting: usize| (waiting < most.max(1)).then_some(waiting + count);
        let waiting = &self.shared.waiting;
        match waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) {
            Ok(_) => Ok(()),
            Err(waiting) => Err(ApiError::busy(format!(
                "{waiting} requests are waiting already: try again in a moment, or start the server with a larger \
                 --max-queue"
            ))),
        }
    }

    fn send(&self, message: Message) -> std::result::Result<(), ApiError> {
        let sent = self.inbox.send(message);
        sent.map_err(|_| ApiError::unavailable("the server is shutting down"))
    }

    fn on_event(
        &self,
        index: usize,
        sender: channel::Sender<(usize, Event)>,
        slot: QueueSlot,
    ) -> OnEvent<'static> {
        let unfinished = Unfinished::new(&self.shared);
        let submitted = Instant::now();
        let (mut slot, mut first, mut progress) = (Some(slot), true, None::<Instant>);
        Box::new(move |event| {
            let shared = &unfinished.0;
            if sender.is_closed() || shared.ending.load(Ordering::SeqCst) {
                return ControlFlow::Break(());
            }
            match event {
                // A chance to break.
                Event::Waiting => return ControlFlow::Continue(()),
                Event::Started => {
                    drop(slot.take());
                    shared.metrics.queued.observe(submitted.elapsed());
                }
                Event::Text { .. } | Event::Progress { .. } if std::mem::take(&mut first) => {
                    shared.metrics.first_token.observe(submitted.elapsed());
                }
                _ => {}
            }
            let crowded = sender.max_capacity() - sender.capacity() > CROWDED;
            match event {
                Event::Preview(_) if crowded => return ControlFlow::Continue(()),
                Event::Progress { .. } => {
                    if crowded || progress.is_some_and(|last| last.elapsed() < PROGRESS_EVERY) {
                        return ControlFlow::Continue(());
                    }
                    progress = Some(Instant::now());
                }
                _ => {}
            }
            match sender.try_send((index, event)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })
    }
}

/// A place in the queue, free again when it is dropped.
pub struct QueueSlot(Arc<QueueState>);

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request or job that is not finished until this is dropped.
struct Unfinished(Arc<QueueState>);

impl Unfinished {
    fn new(shared: &Arc<QueueState>) -> Self {
        shared.unfinished.fetch_add(1, Ordering::SeqCst);
        Self(shared.clone())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use vila_u::engine::{Generation, VisualKind};

    use super::*;

    fn image() -> Request {
        Request::Generate(Generation {
            prompt: "a dog".into(),
            kind: VisualKind::Image,
            options: vila_u::GenerateOptions::default(),
            index: 0,
            previews: 0,
        })
    }

    #[test]
    fn what_fails_fails_alone() {
        let pipeline = Arc::new(Pipeline::from_pretrained("nano").unwrap());
        let worker = Worker::start(pipeline, 100, Arc::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let mut events = worker.submit(vec![image(), image()]).unwrap();
            let slot = worker.slot().unwrap();
            let failed = worker.call(&slot, |_| -> Result<()> { panic!("expected") });
            assert_eq!(failed.await.unwrap_err().status.as_u16(), 500);
            let refused = worker.call(&slot, |_| -> Result<()> { Err(Error::usage("no")) });
            assert_eq!(refused.await.unwrap_err().status.as_u16(), 400);
            let size = worker
                .call(&slot, |pipeline| Ok(pipeline.image_size()))
                .await;
            assert_eq!(size.unwrap(), 64);
            let mut finished = 0;
            while let Some((_, event)) = events.next().await.unwrap() {
                finished += usize::from(matches!(event, Event::Finished { .. }));
            }
            assert_eq!(finished, 2);
            drop(slot);
            worker.idle().await;
            // More than run together: the others are forgotten while they wait.
            let forgotten = worker.submit(vec![image(); 90]).unwrap();
            assert_eq!(worker.unfinished(), 90);
            drop(forgotten);
            let idle = tokio::time::timeout(Duration::from_secs(5), worker.idle());
            assert!(idle.await.is_ok());
        });
        worker.end();
        assert_eq!((worker.waiting(), worker.unfinished()), (0, 0));
        assert!(worker.submit(vec![image()]).is_err());
    }
}
