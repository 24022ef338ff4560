//! Held-out samples of the language model's stages, which are evaluated and never trained on.

use crate::Result;
use crate::data::{KindWeights, SampleKind, Source};
use crate::training::data::dataloader::{MakeSample, first_samples};
use crate::training::data::samples::{Example, SampleMaker};
use crate::training::recipe::Data;

/// Samples that an evaluation looks at, of each kind.
const EVALUATED: usize = 64;

/// By kind where sources have the choice, and all others together.
#[derive(Default)]
pub(super) struct HeldOut {
    pub(super) by_kind: Vec<(SampleKind, Vec<Example>)>,
    pub(super) others: Vec<Example>,
}

impl HeldOut {
    /// The first samples of the sources that are held out, of the kinds that the stage trains.
    pub(super) fn load(samples: &SampleMaker, data: &Data) -> Result<Self> {
        let stage = samples.kinds();
        let held_out = || data.sources.iter().filter(|source| source.held_out);
        let load = |sources: Vec<Source>, kinds: KindWeights| {
            let maker = samples.evaluated(kinds);
            first(&maker, &sources, data, EVALUATED)
        };
        let mut by_kind = Vec::new();
        for kind in stage.kinds() {
            let only = KindWeights::only(kind);
            let choose = held_out().filter(|source| source.kind.is_none());
            let sources = choose.filter(|source| !source.kinds(&only).is_empty());
            by_kind.push((kind, load(sources.cloned().collect(), only)?));
        }
        let others = held_out().filter(|source| !source.chooses(&stage));
        Ok(Self {
            by_kind,
            others: load(others.cloned().collect(), stage.clone())?,
        })
    }

    /// Those that are a picture or a video from a caption, and maybe others.
    pub(super) fn generated(&self) -> impl Iterator<Item = &Example> {
        let kinds = [SampleKind::Generation, SampleKind::VideoGeneration];
        let by_kind = self
            .by_kind
            .iter()
            .filter(move |(kind, _)| kinds.contains(kind));
        by_kind
            .flat_map(|(_, examples)| examples)
            .chain(&self.others)
    }
}

/// The first `count` samples of sources that are held out; none of no sources.
pub(super) fn first<M: MakeSample>(
    maker: &M,
    sources: &[Source],
    data: &Data,
    count: usize,
) -> Result<Vec<M::Sample>> {
    if sources.is_empty() || count == 0 {
        return Ok(Vec::new());
    }
    let first = first_samples(maker, sources, 0, data.max_skipped, count)?;
    Ok(first
        .samples
        .into_iter()
        .map(|loaded| loaded.sample)
        .collect())
}
