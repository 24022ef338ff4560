//! A part of the prompts, for one of many machines.

use crate::{Error, Result};

/// Every `count`-th prompt, the first of them the `number`-th. All samples of a prompt are of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    number: usize,
    count: usize,
}

impl Shard {
    /// All prompts.
    pub const WHOLE: Self = Self {
        number: 1,
        count: 1,
    };

    /// `3/8` is the third of eight; a usage error for what is no such thing.
    ///
    /// ```
    /// use vila_u::evaluation::generation::Shard;
    ///
    /// let shard = Shard::parse("3/8")?;
    /// assert!(shard.has(2) && shard.has(10) && !shard.has(3));
    /// assert!(Shard::parse("0/8").is_err() && Shard::parse("9/8").is_err());
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(number, count)| {
            let number = number.parse().ok().filter(|number| *number > 0)?;
            let count = count.parse().ok().filter(|count| number <= *count)?;
            Some(Self { number, count })
        });
        numbers.ok_or_else(|| {
            Error::usage(format!(
                "{text} is no shard: give its number and how many there are, 1/8 to 8/8"
            ))
        })
    }

    /// Whether the prompt with this index, counted from 0, is of this shard.
    pub fn has(self, index: usize) -> bool {
        index % self.count == self.number - 1
    }

    /// The name of its manifest: shards that share a folder have one each.
    pub(super) fn manifest(self) -> String {
        match self {
            Self::WHOLE => "manifest.jsonl".into(),
            Self { number, count } => format!("manifest.{number}-of-{count}.jsonl"),
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::WHOLE
    }
}
