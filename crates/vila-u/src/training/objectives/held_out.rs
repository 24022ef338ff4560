//! Held-out samples of the language model's stages, which are evaluated and never trained on.

use crate::Result;
use crate::data::{DatasetFormat, KindWeights, SampleKind, Source};
use crate::training::data::dataloader::{MakeSample, first_samples};
use crate::training::data::samples::{Example, SampleMaker};
use crate::training::recipe::Data;

/// Samples that an evaluation looks at, of each kind.
pub(crate) const EVALUATED: usize = 64;

/// Held-out samples of one kind.
pub(crate) struct HeldOutKind {
    /// As recipes spell it; `conversation` where the records' own kind is none of these.
    pub(crate) name: &'static str,
    pub(crate) sources: Vec<Source>,
    pub(crate) kinds: KindWeights,
}

impl HeldOutKind {
    /// The kinds that a stage trains, and those of sources that have their own, each with its sources.
    pub(crate) fn all(stage: &KindWeights, data: &Data) -> Vec<Self> {
        let held_out = || data.sources.iter().filter(|source| source.held_out);
        let own = |source: &Source| source.kind.is_none() && source.kinds(stage).is_empty();
        let page = |source: &Source| own(source) && source.format == DatasetFormat::Mmc4;
        let of_kind = SampleKind::ALL.into_iter().map(|kind| {
            let weighed = stage.among(&[kind]);
            let sources = held_out().filter(|source| match source.kind {
                Some(only) => only == kind,
                None => {
                    !source.kinds(&weighed).is_empty() || kind == SampleKind::Page && page(source)
                }
            });
            Self {
                name: kind.name(),
                sources: sources.cloned().collect(),
                kinds: KindWeights::only(kind),
            }
        });
        let conversations = held_out().filter(|source| own(source) && !page(source));
        let conversations = Self {
            name: "conversation",
            sources: conversations.cloned().collect(),
            kinds: stage.clone(),
        };
        let all = of_kind.chain([conversations]);
        all.filter(|kind| !kind.sources.is_empty()).collect()
    }
}

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

/// The first `count` samples of sources; none of no sources.
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
