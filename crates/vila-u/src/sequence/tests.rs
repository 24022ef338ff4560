//! What must hold for any samples: nothing lost, nothing shared, every target counted once.

use burn::tensor::Device;
use proptest::prelude::*;

use crate::text::IMAGE_ID;

use super::{Content, Role, Sample, SequenceLayout, Span, packing::pack};

const VISUAL_TOKENS: usize = 3;

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Context),
        Just(Role::Target),
        Just(Role::Document)
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    let id = prop_oneof![4 => 0..100i64, 1 => Just(IMAGE_ID)];
    prop::collection::vec((id, role()), 1..12).prop_map(|tokens| {
        let (ids, roles): (Vec<i64>, Vec<Role>) = tokens.into_iter().unzip();
        Sample::new(&ids, &roles)
    })
}

/// The sample's positions one by one: the text id, or `None` for a visual token; and the role.
fn positions(sample: &Sample) -> Vec<(Option<i64>, Role)> {
    let mut all = Vec::new();
    for Span { content, role } in &sample.spans {
        match content {
            Content::Text(ids) => all.extend(ids.iter().map(|&id| (Some(id), *role))),
            Content::Visual(images) => {
                all.extend(std::iter::repeat_n((None, *role), images * VISUAL_TOKENS))
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn packing_places_every_sample_once_within_capacity(
        lengths in prop::collection::vec(1usize..50, 0..40),
        spare in 0usize..60,
    ) {
        let capacity = lengths.iter().copied().max().unwrap_or(0) + spare;
        let rows = pack(&lengths, capacity);
        let mut members: Vec<usize> = rows.concat();
        let order: Vec<usize> = members.iter().map(|&sample| lengths[sample]).collect();
        prop_assert!(order.windows(2).all(|pair| pair[0] >= pair[1]));
        members.sort();
        prop_assert_eq!(members, (0..lengths.len()).collect::<Vec<_>>());
        let used = |row: &Vec<usize>| row.iter().map(|&sample| lengths[sample]).sum::<usize>();
        prop_assert!(rows.iter().all(|row| used(row) <= capacity));
        // Next-fit: a row is closed only by a sample that does not fit.
        for pair in rows.windows(2) {
            prop_assert!(used(&pair[0]) + lengths[pair[1][0]] > capacity);
        }
    }

    #[test]
    fn every_position_of_every_sample_stands_once_and_in_order(
        samples in prop::collection::vec(sample(), 1..8),
        left in any::<bool>(),
        max_length in 1usize..40,
        capacity in prop::option::of(1usize..60),
    ) {
        let (layout, max_length) = if left { (SequenceLayout::left_padded(&samples, VISUAL_TOKENS), usize::MAX) } else { (
                SequenceLayout::packed(&samples, VISUAL_TOKENS, max_length, capacity),
                max_length,
            ) };
        let place = layout.positions(&Device::flex()).into_data().iter::<i64>().collect::<Vec<_>>();
        let mut text_targets = 0;
        let mut visual_targets = 0;
        for (index, sample) in samples.iter().enumerate() {
            let mut expected = positions(sample);
            expected.truncate(max_length);
            let at: Vec<usize> = (0..layout.rows * layout.length)
                .filter(|&position| layout.sample_at(position) == Some(index))
                .collect();
            prop_assert_eq!(at.len(), expected.len());
            prop_assert!(at.windows(2).all(|pair| pair[1] == pair[0] + 1));
            prop_assert_eq!(at[0] / layout.length, at[at.len() - 1] / layout.length);
            for (step, (&position, (text, role))) in at.iter().zip(&expected).enumerate() {
                prop_assert_eq!(place[position], step as i64);
                prop_assert_eq!(layout.text_at(position), *text);
                let counts = usize::from(step > 0);
                match text {
                    Some(_) if role.predicts_text() => text_targets += counts,
                    None if role.predicts_visual() => visual_targets += counts,
                    _ => {}
                }
            }
            if left {
                prop_assert_eq!((at[at.len() - 1] + 1) % layout.length, 0);
            }
        }
        prop_assert_eq!(layout.text_targets.len(), text_targets);
        prop_assert_eq!(layout.visual_targets.len(), visual_targets);
        for target in &layout.text_targets {
            prop_assert_eq!(layout.text_at(target.from + 1), Some(target.id));
            prop_assert_eq!(layout.sample_at(target.from), layout.sample_at(target.from + 1));
        }
        for target in &layout.visual_targets {
            prop_assert!(target.token < layout.visual_tokens);
            prop_assert_eq!(layout.sample_at(target.from), layout.sample_at(target.from + 1));
        }
    }

    #[test]
    fn the_mask_is_causal_and_block_diagonal(
        samples in prop::collection::vec(sample(), 1..6),
    ) {
        let layout = SequenceLayout::packed(&samples, VISUAL_TOKENS, usize::MAX, Some(60));
        let mask = layout.mask(&Device::flex()).into_data().iter::<bool>().collect::<Vec<_>>();
        let length = layout.length;
        for (index, hidden) in mask.into_iter().enumerate() {
            let (row, query, key) = (index / length / length, index / length % length, index % length);
            let same = layout.sample_at(row * length + query) == layout.sample_at(row * length + key);
            prop_assert_eq!(hidden, !(same && key <= query));
        }
    }
}
