//! Held-out samples, which are evaluated and never trained on.

use crate::Result;
use crate::training::data::dataloader::{MakeSample, first_samples};
use crate::training::recipe::Data;

/// Held-out samples that an evaluation of the language model looks at; of the nano world, of each kind.
pub(super) const EVALUATED: usize = 64;

/// The first samples of the sources that are held out; none for the nano world.
pub(super) fn held_out<M: MakeSample>(
    maker: &M,
    data: &Data,
    count: usize,
) -> Result<Option<Vec<M::Sample>>> {
    if data.sources.is_empty() {
        return Ok(None);
    }
    let sources = data.sources.iter().filter(|source| source.held_out);
    let sources: Vec<_> = sources.cloned().collect();
    if sources.is_empty() || count == 0 {
        return Ok(Some(Vec::new()));
    }
    let samples = first_samples(maker, &sources, data.max_skipped, count)?;
    Ok(Some(
        samples.into_iter().map(|loaded| loaded.sample).collect(),
    ))
}
