//! Generating from a caption to pixels, with guidance: images, more and more at once, and a video.

use super::{Bench, Suite, timing::Effort};
use crate::{
    Error, Result, checkpoint,
    generation::{
        memory::MemoryEstimate,
        visual::{self, GUIDANCE, VisualOptions},
    },
    memory,
    text::conversation::{Reply, Turn, generation_prompt, unconditional_prompt},
};

const CAPTION: &str = "a red heart on a blue background";
/// Name, what is generated, how many at once, and frames of each.
const CASES: [(&str, Reply, usize, usize); 5] = [
    ("generate_1", Reply::Image, 1, 1),
    ("video_8", Reply::Video, 1, 8),
    ("generate_4", Reply::Image, 4, 1),
    ("generate_16", Reply::Image, 16, 1),
    ("generate_64", Reply::Image, 64, 1),
];
/// A case of which one run would take more seconds is left out.
const LONGEST: f64 = 60.0;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (subject, watch) = (bench.subject, bench.watch);
    (watch.say)("loading");
    let checkpoint = checkpoint::load(&subject.files, &subject.device, subject.dtype)?;
    let (model, tokenizer) = (&checkpoint.model, &checkpoint.tokenizer);
    let need = MemoryEstimate::of(&checkpoint.config);
    let options = VisualOptions {
        guidance: GUIDANCE,
        ..checkpoint.generation.visual(0)
    };
    let mut each = 0.0; // seconds, as the case before tells
    for (name, reply, n, frames) in CASES {
        let images = n * frames;
        let seconds = each * images as f64;
        let bytes = need.fixed + images as u64 * need.per_image;
        let free = memory::free(&subject.device).unwrap_or(u64::MAX);
        if seconds > LONGEST || bytes > free {
            let gigabytes = bytes as f64 / 1e9;
            (watch.say)(&format!(
                "generate {name} is left out: it takes about {seconds:.0} s and {gigabytes:.1} GB"
            ));
            continue;
        }
        let prompt = generation_prompt(&[Turn::human(CAPTION)], reply, true)?;
        let prompts = vec![tokenizer.encode_prompt(&prompt); n];
        let unconditional = tokenizer.encode_prompt(&unconditional_prompt(reply, true)?);
        let generate = || {
            visual::generate(
                model,
                &prompts,
                &unconditional,
                frames,
                &options,
                &mut |_| watch.go_on(),
            )
            .map(drop)
        };
        let rate = |seconds| vec![("images_per_s", images as f64 / seconds)];
        match bench.case_of(Effort::SHORT, Suite::Generate, name, generate, rate) {
            Ok(seconds) => each = seconds / images as f64,
            // How much memory a GPU has it says when there is no more.
            Err(Error::Failed(reason)) if n > 1 => {
                (watch.say)(&format!("generate {name} is left out: {reason}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
