//! What the thread of the engine does.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, TryRecvError},
    },
};

use vila_u::{
    Pipeline,
    engine::{Engine, EngineOptions, OnEvent, Request},
};

use crate::metrics::Metrics;

/// Runs between two steps of the engine.
pub type Job = Box<dyn FnOnce(&Pipeline) + Send>;

pub enum Message {
    Request(Box<Request>, OnEvent<'static>),
    Job(Job),
    End,
}

/// A job and a step of the engine, over and over.
pub struct EngineLoop<'a> {
    engine: Engine<'a>,
    messages: mpsc::Receiver<Message>,
    jobs: VecDeque<Job>,
    metrics: Arc<Metrics>,
}

impl<'a> EngineLoop<'a> {
    pub fn new(
        engine: Engine<'a>,
        messages: mpsc::Receiver<Message>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            engine,
            messages,
            jobs: VecDeque::new(),
            metrics,
        }
    }

    /// Until it is told to end.
    pub fn run(&mut self) {
        while let Ok(message) = self.messages.recv() {
            if !self.take(message) {
                return;
            }
            // On a thread of the pool, where the loops of a step start without waking one up; and not while there is
            // nothing to do, which would keep the thread from others.
            if rayon::scope(|_| self.work()).is_break() {
                return;
            }
        }
    }

    /// Whether there is to be more.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Request(request, on_event) => self.engine.submit(*request, on_event),
            Message::Job(job) => self.jobs.push_back(job),
            Message::End => return false,
        }
        true
    }

    /// Until there is nothing to do.
    fn work(&mut self) -> ControlFlow<()> {
        loop {
            loop {
                let more = match self.messages.try_recv() {
                    Ok(message) => self.take(message),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => false,
                };
                if !more {
                    return ControlFlow::Break(());
                }
            }
            let job = self.jobs.pop_front();
            let pipeline = self.engine.pipeline();
            let worked = job.is_some();
            if let Some(job) = job {
                // Its caller is told by the end of its channel.
                let _ = catch_unwind(AssertUnwindSafe(|| job(pipeline)));
            }
            let stepped = catch_unwind(AssertUnwindSafe(|| self.engine.step()));
            self.metrics.engine(&self.engine.statistics());
            match stepped {
                Ok(false) if !worked => {
                    self.metrics.idle();
                    return ControlFlow::Continue(());
                }
                Ok(_) => {}
                // What it holds may be half-done: a new one, and those who waited are told by their channels.
                Err(_) => match Engine::new(pipeline, EngineOptions::default()) {
                    Ok(engine) => self.engine = engine,
                    Err(_) => return ControlFlow::Break(()),
                },
            }
            // Decoders of pictures wait for the pool as well.
            rayon::yield_now();
        }
    }
}
