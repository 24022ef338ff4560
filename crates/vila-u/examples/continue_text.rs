//! Continues a text with a base language model in a folder as Hugging Face has it, the most probable token each time:
//! `cargo run --release --example continue_text models/smollm2-135m-instruct "The capital of France is"`

use std::ops::ControlFlow;

use vila_u::checkpoint::{Files, WeightDtype, load_base};
use vila_u::generation::text::{self, TextOptions};
use vila_u::generation::{batch::Prompt, sampling::Sampling};
use vila_u::{Error, device};

fn main() -> vila_u::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(text)) = (args.next(), args.next()) else {
        return Err(Error::usage("give a folder and a text"));
    };
    let (files, device) = (Files::folder(folder), device::select("cpu")?);
    let base = load_base(&files, &device, WeightDtype::F32)?;
    let prompt = Prompt::from_ids(&base.model, &[base.tokenizer.encode(&text)])?;
    let options = TextOptions {
        sampling: Sampling::GREEDY,
        seed: 0,
        max_tokens: 24,
        stop: vec![base.tokenizer.eos_token_id()],
    };
    print!("{text}");
    let mut stream = base.tokenizer.stream();
    text::generate(&base.model, prompt, &options, &mut |_, token| {
        print!("{}", stream.push(token));
        ControlFlow::Continue(())
    })?;
    println!("{}", stream.finish());
    Ok(())
}
