//! Ids, labels and packing.

use burn::tensor::Device;
use vila_u::{
    sequence::{Sample, SequenceLayout, templates},
    teacher_forcing::VisualTokens,
    text::conversation::Turn,
};

use super::{MAX_LENGTH, VISUAL_TOKENS, VOCABULARY, batches, cases, labels, model, tokenizer};
use crate::fixture::{Recorded, assert_close};

#[test]
fn conversations() {
    let tokenizer = tokenizer();
    for case in cases() {
        let system = !case.no_system_prompt;
        let sample = match case.name.as_str() {
            "video_generation" => {
                let turns = [case.messages[0].clone(), Turn::assistant("<video>")];
                let sample = templates::video_chat(&tokenizer, &turns, 8, system).unwrap();
                // Spelled out, as the authors write it, it is the same.
                let again = templates::chat(&tokenizer, &case.messages, 8, system).unwrap();
                assert_eq!(sample, again);
                sample
            }
            _ => templates::chat(
                &tokenizer,
                &case.messages,
                usize::from(case.has_image),
                system,
            )
            .unwrap(),
        };
        assert_eq!(sample.ids(), case.input_ids, "{}", case.name);
        assert_eq!(labels(&sample), case.labels, "{}", case.name);
    }
}

#[test]
fn ids_and_labels() {
    let recorded = Recorded::open("train.safetensors");
    for batch in batches() {
        let width = recorded.shape(&batch.key("input_ids"))[1];
        for (name, of) in [
            ("input_ids", Sample::ids as fn(&Sample) -> Vec<i64>),
            ("labels", labels),
        ] {
            let expected = recorded.ints(&batch.key(name));
            let lengths = recorded.ints(&batch.key("attention_mask"));
            for (row, sample) in batch.samples.iter().enumerate() {
                let row = row * width..(row + 1) * width;
                let length = lengths[row.clone()].iter().sum::<i64>() as usize;
                assert_eq!(of(sample), expected[row][..length], "{}", batch.key(name));
            }
        }
    }
}

/// Positions, packing and the labels on every position that a position before it can predict.
#[test]
fn packing() {
    let recorded = Recorded::open("train.safetensors");
    let model = model(&Device::flex());
    for batch in batches() {
        let layout = batch.layout();
        let [rows, length] = recorded.shape(&batch.key("packed_source"))[..] else {
            panic!()
        };
        assert_eq!((layout.rows, layout.length), (rows, length));
        let source = recorded.ints(&batch.key("packed_source"));
        let places = recorded.ints(&batch.key("packed_position_ids"));
        let positions: Vec<i64> = layout
            .positions(&Device::flex())
            .into_data()
            .iter()
            .collect();
        for position in 0..rows * length {
            let sample = layout.sample_at(position);
            assert_eq!(sample.map_or(-1, |sample| sample as i64), source[position]);
            assert_eq!(positions[position], places[position].max(0));
        }

        let visual = VisualTokens::encode(&model.vision_tower.rqvaesiglip, batch.pixels.clone());
        let [_, depth] = visual.codes.dims();
        let codes: Vec<i64> = visual.codes.clone().into_data().iter().collect();
        let mut ours = vec![-100; rows * length * depth];
        for target in &layout.text_targets {
            ours[(target.from + 1) * depth..][..depth].fill(target.id);
        }
        for target in &layout.visual_targets {
            for d in 0..depth {
                ours[(target.from + 1) * depth + d] = codes[target.token * depth + d] + VOCABULARY;
            }
        }
        let mut expected = recorded.ints(&batch.key("packed_labels"));
        for start in (0..rows * length).filter(|&position| places[position] == 0) {
            expected[start * depth..][..depth].fill(-100);
        }
        assert_eq!(ours, expected, "{}", batch.name);

        // The labels before packing are those of every sample alone.
        let spliced = recorded.ints(&batch.key("spliced_labels"));
        let width = spliced.len() / batch.samples.len();
        let mut after = 0;
        for (row, sample) in batch.samples.iter().enumerate() {
            let alone = std::slice::from_ref(sample);
            let layout = SequenceLayout::packed(alone, VISUAL_TOKENS, MAX_LENGTH, None);
            let mut ours = vec![-100; width];
            for target in &layout.text_targets {
                ours[(target.from + 1) * depth..][..depth].fill(target.id);
            }
            for target in &layout.visual_targets {
                for d in 0..depth {
                    let code = codes[(after + target.token) * depth + d];
                    ours[(target.from + 1) * depth + d] = code + VOCABULARY;
                }
            }
            after += layout.visual_tokens;
            let expected = &spliced[row * width..(row + 1) * width];
            assert_eq!(ours[depth..], expected[depth..], "{} {row}", batch.name);
        }

        if batch.name == "b1" {
            let projected = model.mm_projector.forward(visual.features);
            let embeds = layout.embeddings(&model.llm, Some(projected));
            let row = embeds.narrow(0, 1, 1).squeeze_dim::<2>(0);
            assert_close(&recorded, "b1.packed_inputs_embeds_row1", row, 1e-4);
        }
    }
}
