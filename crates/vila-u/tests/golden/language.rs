//! The language model: hidden states, logits and greedy continuations.

use std::ops::ControlFlow;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use vila_u::{
    checkpoint::{Component, load_into},
    generation::{
        batch::Prompt,
        sampling::Sampling,
        text::{self, TextOptions},
    },
    language::{Llama, LlamaConfig, Rope, RopeScaling},
};

use crate::fixture::{Recorded, assert_close, folder};

fn config() -> LlamaConfig {
    let text = std::fs::read_to_string(folder().join("checkpoint/llm/config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn load(config: &LlamaConfig) -> Llama {
    let mut llm = Llama::new(config, &Device::flex()).unwrap();
    load_into(&mut llm, &folder().join("checkpoint/llm"), Component::Llm).unwrap();
    llm
}

fn forward(llm: &Llama, embeds: Tensor<3>) -> Tensor<3> {
    let [rows, positions, _] = embeds.dims();
    let ids = Tensor::<1, Int>::arange(0..positions as i64, &embeds.device());
    llm.forward(embeds, ids.unsqueeze().repeat_dim(0, rows), None, None)
}

fn tail(x: Tensor<3>, count: usize) -> Tensor<3> {
    let [_, positions, _] = x.dims();
    x.narrow(1, positions - count, count)
}

fn greedy(llm: &Llama, prompt: Prompt) -> Vec<i64> {
    let options = TextOptions {
        sampling: Sampling::GREEDY,
        seed: 0,
        max_tokens: 12,
        stop: vec![2],
    };
    let mut streamed = vec![Vec::new(); 2];
    let rows = text::generate(llm, prompt, &options, &mut |row, token| {
        streamed[row].push(token);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(rows[..], streamed[..rows.len()]);
    rows.concat()
}

fn prompt(embeds: Tensor<3>) -> Prompt {
    let [rows, positions, _] = embeds.dims();
    Prompt::new(embeds, vec![positions; rows]).unwrap()
}

#[test]
fn text() {
    let recorded = Recorded::open("llm.safetensors");
    let llm = load(&config());
    let embeds = llm.embed(recorded.int_tensor("a.input_ids"));
    assert_close(&recorded, "a.inputs_embeds", embeds.clone(), 0.0);
    let hidden = forward(&llm, embeds.clone());
    assert_close(&recorded, "a.last_hidden", hidden.clone(), 1e-5);
    assert_close(&recorded, "a.logits", llm.logits(hidden), 1e-5);
    assert_eq!(
        greedy(&llm, prompt(embeds)),
        recorded.ints("a.greedy_tokens")
    );
}

#[test]
fn images_and_video() {
    let recorded = Recorded::open("llm.safetensors");
    let llm = load(&config());
    for case in ["b", "c", "d"] {
        let embeds: Tensor<3> = recorded.tensor(&format!("{case}.inputs_embeds"));
        let hidden = forward(&llm, embeds.clone());
        if case == "c" {
            assert_close(
                &recorded,
                "c.last_hidden_tail",
                tail(hidden.clone(), 64),
                1e-5,
            );
        } else {
            assert_close(
                &recorded,
                &format!("{case}.last_hidden"),
                hidden.clone(),
                1e-5,
            );
        }
        let key = format!("{case}.logits_tail");
        assert_close(&recorded, &key, llm.logits(tail(hidden, 16)), 1e-5);
        let expected = recorded.ints(&format!("{case}.greedy_tokens"));
        assert_eq!(greedy(&llm, prompt(embeds)), expected, "case {case}");
    }
    let embeds = recorded.tensor("e.inputs_embeds");
    assert_eq!(
        greedy(&llm, prompt(embeds)),
        recorded.ints("e.greedy_tokens")
    );
}

/// Cases b and e in one batch, padded on the left.
#[test]
fn left_padded_batch() {
    let recorded = Recorded::open("llm.safetensors");
    let llm = load(&config());
    let right: Tensor<3> = recorded.tensor("f.right.inputs_embeds");
    let [_, positions, hidden] = right.dims();
    let mask = recorded.ints("f.right.attention_mask");
    let lengths: Vec<usize> = mask
        .chunks(positions)
        .map(|row| row.iter().sum::<i64>() as usize)
        .collect();
    let rows = lengths.iter().enumerate().map(|(row, length)| {
        let real = right.clone().narrow(0, row, 1).narrow(1, 0, *length);
        let pads = positions - length;
        let pads = Tensor::<3>::full([1, pads, hidden], 7.0, &real.device());
        Tensor::cat(vec![pads, real], 1)
    });
    let rows: Vec<Tensor<3>> = rows.collect();
    let left = Tensor::cat(rows, 0);
    let prompt = Prompt::new(left, lengths).unwrap();
    let (_, hidden) = vila_u::generation::batch::DecodeBatch::prefill(&llm, prompt.clone(), 0);
    let logits = llm.logits(hidden.unsqueeze_dim(1)).squeeze_dim::<2>(1);
    assert_close(&recorded, "f.right.logits_last", logits, 1e-5);
    assert_eq!(greedy(&llm, prompt), recorded.ints("f.left.greedy_tokens"));
}

#[test]
fn rope_scaling() {
    let recorded = Recorded::open("llm.safetensors");
    let llm = load(&LlamaConfig {
        rope: Rope {
            scaling: Some(RopeScaling::Linear { factor: 2.0 }),
            ..Rope::default()
        },
        ..config()
    });
    let embeds: Tensor<3> = recorded.tensor("b.inputs_embeds");
    let hidden = forward(&llm, embeds.clone());
    assert_close(
        &recorded,
        "g.logits_tail",
        llm.logits(tail(hidden, 16)),
        1e-5,
    );
    assert_eq!(
        greedy(&llm, prompt(embeds)),
        recorded.ints("g.greedy_tokens")
    );
}

/// Two samples in one row, seeing only themselves, come out as they do alone.
#[test]
fn packed_row() {
    let recorded = Recorded::open("llm.safetensors");
    let llm = load(&config());
    let a: Tensor<3> = recorded.tensor("a.inputs_embeds");
    let b: Tensor<3> = recorded.tensor("b.inputs_embeds");
    let (first, second) = (a.dims()[1], b.dims()[1]);
    let length = first + second;
    let positions: Vec<i64> = (0..first as i64).chain(0..second as i64).collect();
    let positions = Tensor::from_data(TensorData::new(positions, [1, length]), &a.device());
    let hidden: Vec<bool> = (0..length * length)
        .map(|i| (i / length, i % length))
        .map(|(query, key)| key > query || (query >= first && key < first))
        .collect();
    let mask = TensorData::new(hidden, [1, 1, length, length]);
    let mask = Tensor::<4, Bool>::from_data(mask, &a.device());
    let out = llm.forward(Tensor::cat(vec![a, b], 1), positions, Some(mask), None);
    assert_close(
        &recorded,
        "a.last_hidden",
        out.clone().narrow(1, 0, first),
        1e-5,
    );
    assert_close(
        &recorded,
        "b.last_hidden",
        out.narrow(1, first, second),
        1e-5,
    );
}
