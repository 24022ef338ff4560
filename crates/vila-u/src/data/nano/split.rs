//! What training sees of the nano world, and what is held out from it.

use super::stable_hash;
use crate::{Error, Result};

/// Which part of the world a scene comes from. No combination and no gallery emoji is in two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    /// What choices are made by: when to stop, and how to sample.
    Validation,
    /// What is reported.
    Test,
}

impl Split {
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// As on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|split| split.name() == name);
        named.ok_or_else(|| Error::usage(format!("the nano world has no split {name}")))
    }

    /// The split of what has this key, by a hash of it: one in `out_of` is held out, a third of these for validation.
    pub(super) fn of(key: &str, out_of: u64) -> Self {
        let hash = stable_hash(key);
        match (hash.is_multiple_of(out_of), hash.is_multiple_of(3 * out_of)) {
            (_, true) => Self::Validation,
            (true, _) => Self::Test,
            (false, _) => Self::Train,
        }
    }

    /// The split of what is made of several parts: that of those held out. None where they are of both kinds.
    pub(super) fn of_all(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        parts
            .into_iter()
            .try_fold(Self::Train, |all, part| match (all, part) {
                (Self::Train, part) => Some(part),
                (all, Self::Train) => Some(all),
                (all, part) => (all == part).then_some(all),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_held_out_and_a_third_of_it_for_validation() {
        let split = |index: u64| Split::of(&index.to_string(), 10);
        let share = |wanted| (0..30_000).filter(|index| split(*index) == wanted).count();
        let [train, validation, test] = Split::ALL.map(share);
        assert_eq!(train + validation + test, 30_000);
        assert!(validation.abs_diff(1000) < 100, "{validation}");
        assert!(test.abs_diff(2000) < 150, "{test}");
    }

    #[test]
    fn what_has_parts_of_both_kinds_held_out_is_of_neither() {
        let [train, validation, test] = Split::ALL;
        assert_eq!(Split::of_all([train, train]), Some(train));
        assert_eq!(Split::of_all([train, test, test]), Some(test));
        assert_eq!(Split::of_all([validation, train]), Some(validation));
        assert_eq!(Split::of_all([validation, train, test]), None);
    }
}
