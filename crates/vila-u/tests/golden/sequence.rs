//! Forms of samples, and prompts spliced into embeddings.

use burn::tensor::{Device, Tensor};
use vila_u::{
    sequence::{Role, Sample, SequenceLayout, templates},
    teacher_forcing::VisualTokens,
    text::{
        IMAGE_ID, Tokenizer,
        conversation::{self, Reply, Turn},
    },
};

use crate::{
    fixture::{Recorded, assert_close, folder},
    generate::load,
};

const VISUAL_TOKENS: usize = 64;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_dir(&folder().join("checkpoint/llm")).unwrap()
}

fn turns(human: &str, assistant: &str) -> [Turn; 2] {
    [Turn::human(human), Turn::assistant(assistant)]
}

#[test]
fn spliced_prompts() {
    let recorded = Recorded::open("llm.safetensors");
    let images = Recorded::open("preprocess.safetensors");
    let model = load(&Device::flex());
    let embeds = |layout: SequenceLayout, pixels: Tensor<4>| {
        let visual = VisualTokens::encode(&model.vision_tower.rqvaesiglip, pixels);
        let projected = model.mm_projector.forward(visual.features);
        layout.embeddings(&model.llm, Some(projected))
    };
    let prompt = |case: &str| Sample::prompt(&recorded.ints(&format!("{case}.input_ids")));
    for (case, names) in [
        ("b", ["img0.understanding"].as_slice()),
        ("c", &[]),
        ("d", &["img1.understanding", "img3.understanding_pil"]),
        ("e", &["img2.understanding"]),
    ] {
        let pixels = match case {
            "c" => recorded.tensor("c.pixel_values"),
            _ => Tensor::stack(
                names.iter().map(|name| images.tensor::<3>(name)).collect(),
                0,
            ),
        };
        let layout = SequenceLayout::left_padded(&[prompt(case)], VISUAL_TOKENS);
        let key = format!("{case}.inputs_embeds");
        assert_close(&recorded, &key, embeds(layout, pixels), 1e-4);
    }

    let both = [prompt("b"), prompt("e")];
    let pixels = ["img0.understanding", "img2.understanding"];
    let pixels: Tensor<4> = Tensor::stack(pixels.map(|name| images.tensor::<3>(name)).into(), 0);
    let right = SequenceLayout::packed(&both, VISUAL_TOKENS, 2048, None);
    let left = SequenceLayout::left_padded(&both, VISUAL_TOKENS);
    let expected = recorded.ints("f.left.attention_mask");
    let real: Vec<i64> = (0..left.rows * left.length)
        .map(|position| i64::from(left.sample_at(position).is_some()))
        .collect();
    assert_eq!(real, expected);
    let right = embeds(right, pixels.clone());
    assert_close(&recorded, "f.right.inputs_embeds", right.clone(), 1e-4);
    // On the left, the second row is the same after its four positions of padding.
    let left = embeds(left, pixels);
    let row = |x: Tensor<3>, start| x.narrow(0, 1, 1).narrow(1, start, 132);
    let difference = row(left.clone(), 4) - row(right, 0);
    assert_eq!(difference.abs().max().into_scalar::<f32>(), 0.0);
    assert_eq!(
        left.narrow(0, 1, 1)
            .narrow(1, 0, 4)
            .abs()
            .sum()
            .into_scalar::<f32>(),
        0.0
    );
}

/// What is trained starts with exactly what is later asked, with a caption and without.
#[test]
fn generations_begin_like_their_prompts() {
    let tokenizer = tokenizer();
    let image = turns("A red boat.", "<image>");
    let video = turns("A red boat.", "<video>");
    let captions = [image.to_vec(), video.to_vec()];
    for (turns, reply) in captions.into_iter().zip([Reply::Image, Reply::Video]) {
        let make = |turns: &[Turn]| match reply {
            Reply::Video => templates::video_chat(&tokenizer, turns, 8, true).unwrap(),
            _ => templates::chat(&tokenizer, turns, 1, true).unwrap(),
        };
        let asked = conversation::generation_prompt(&turns[..1], reply, true).unwrap();
        let unasked = conversation::unconditional_prompt(reply, true).unwrap();
        for (turns, prompt) in [
            (turns.clone(), asked),
            (templates::without_caption(&turns), unasked),
        ] {
            let sample = make(&turns);
            let prompt = tokenizer.encode_prompt(&prompt);
            assert_eq!(sample.ids()[..prompt.len()], prompt);
            assert!(sample.images().iter().all(|role| *role == Role::Target));
        }
    }
}

#[test]
fn videos_to_look_at_come_first_and_bare() {
    let tokenizer = tokenizer();
    let expected = turns(&format!("{}What moves?", "<image>\n".repeat(8)), "A bird.");
    let expected = tokenizer.encode_prompt(&conversation::prompt(&expected, true).unwrap());
    for human in [
        "What moves?",
        "<video>\nWhat moves?",
        "<image>\nWhat moves?",
    ] {
        let sample = templates::video_chat(&tokenizer, &turns(human, "A bird."), 8, true).unwrap();
        assert_eq!(sample.ids(), expected);
        assert_eq!(sample.images(), [Role::Context; 8]);
    }
}

#[test]
fn every_image_has_its_turn() {
    let tokenizer = tokenizer();
    let chat = |human: &str, assistant: &str, images| {
        templates::chat(&tokenizer, &turns(human, assistant), images, true)
    };
    let edited = chat("<image>\nMake it red.", "Here:<image>", 2).unwrap();
    assert_eq!(edited.images(), [Role::Context, Role::Target]);
    assert_eq!(
        chat("Same?", "No.", 2).unwrap(),
        chat("<image>\n<image>\nSame?", "No.", 2).unwrap()
    );
    let error = chat("<image>\nSame?", "No.", 2).unwrap_err().to_string();
    assert!(error.contains("1 times, and 2 images"), "{error}");
    assert!(chat("What is <image>?", "No.", 0).is_err());

    // Nothing is taken from a question that shows an image, nor where nothing is generated.
    for kept in [
        turns("<image>\nMake it red.", "<image>"),
        turns("What is it?", "A cat."),
    ] {
        assert_eq!(templates::without_caption(&kept), kept);
    }
}

/// A reply of words and a picture: both are learnt, in the layout in which a reply is made.
#[test]
fn words_around_a_drawn_picture_carry_loss_as_it_does() {
    let tokenizer = tokenizer();
    let turns = turns("Make it red.", "Here: <image> It is red.");
    let sample = templates::chat(&tokenizer, &turns, 1, true).unwrap();
    let asked = conversation::generation_prompt(&turns[..1], Reply::Text, true).unwrap();
    let asked = tokenizer.encode_prompt(&asked);
    let ids = sample.ids();
    assert_eq!(ids[..asked.len()], asked);
    let answer = &ids[asked.len()..];
    let at = answer.iter().position(|&id| id == IMAGE_ID).unwrap();
    let marker = |text| tokenizer.added_token_id(text).unwrap();
    assert_eq!(answer[at - 1], marker(conversation::IMAGE_START));
    assert_eq!(answer[at + 1], marker(conversation::IMAGE_END));
    assert_eq!(tokenizer.decode(&answer[at + 2..]).trim(), "It is red.");

    let layout = SequenceLayout::packed(&[sample], VISUAL_TOKENS, 2048, None);
    let first = asked.len() - 1;
    let visual: Vec<usize> = layout.visual_targets.iter().map(|t| t.from).collect();
    let generated = first + at;
    assert_eq!(
        visual,
        (generated..generated + VISUAL_TOKENS).collect::<Vec<_>>()
    );
    // All words of the answer, the start and end tokens and </s> among them.
    let text: Vec<usize> = layout.text_targets.iter().map(|t| t.from).collect();
    let after = generated + VISUAL_TOKENS..first + answer.len() + VISUAL_TOKENS - 1;
    assert_eq!(text, (first..generated).chain(after).collect::<Vec<_>>());

    // The same of a video.
    let turns = self::turns("Make it run.", "Here: <video> It runs.");
    let sample = templates::video_chat(&tokenizer, &turns, 2, true).unwrap();
    assert_eq!(sample.images(), [Role::Target; 2]);
    let layout = SequenceLayout::packed(&[sample], VISUAL_TOKENS, 2048, None);
    assert_eq!(layout.visual_targets.len(), 2 * VISUAL_TOKENS);
}
