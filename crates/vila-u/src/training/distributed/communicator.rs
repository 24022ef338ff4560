//! What training needs of an engine that connects ranks.

/// The ranks that train together, as one of them sees them. Every rank makes the same calls in the same order.
pub trait Communicator: Send + Sync {
    /// This rank's number, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// This rank's number among those of its machine: of a kind of GPU it takes the one of that number.
    fn local_rank(&self) -> usize;

    /// How many ranks are on its machine.
    fn local_size(&self) -> usize;

    /// Sends `messages[r]` to rank `r` and returns what the ranks have sent to this one, in their order. Messages may
    /// be of any length.
    ///
    /// # Errors
    /// When a rank cannot be reached any more, with the reason for the person. Nothing more is tried after that.
    fn all_to_all(&self, messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String>;
}

/// A rank that is alone.
pub(super) struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn local_size(&self) -> usize {
        1
    }

    fn all_to_all(&self, messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, String> {
        Ok(messages)
    }
}
