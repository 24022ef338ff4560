//! Questions about images and videos whose answers are known: the model replies to all of them, side by side, and the
//! replies are scored by rules ([`AnswerMetric`]) or by another language model ([`Judge`]).
//!
//! Replies are kept in a folder as they come, so that whatever happens none is asked for twice.

mod ask;
mod item;
mod judge;
mod metric;
mod replies;
mod score;
mod video_qa;
mod vqa;

pub use item::{Item, Media};
pub use judge::{Judge, JudgePrompt};
pub use metric::AnswerMetric;
pub use replies::{Asking, Replies};
pub use score::{by_judge, by_metric};
pub use video_qa::VideoQa;

/// Gets what is under way, how much of it is done, and of how much; `false` stops the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, usize, usize) -> bool;
