//! Generate a video, and ask about it: `cargo run --release --example video "a red heart moves left on a blue background"`

use vila_u::{AskOptions, Error, GenerateOptions, Pipeline, Question, media::video};

fn main() -> vila_u::Result<()> {
    let prompt = std::env::args().nth(1);
    let prompt = prompt.ok_or_else(|| Error::usage("give a description"))?;
    let pipeline = Pipeline::from_pretrained("nano")?;
    let frames = pipeline.generate_video(&prompt, &GenerateOptions::default())?;
    video::save("video.mp4".as_ref(), &frames, video::RATE)?;

    // Of a file it would be `pipeline.load_video("video.mp4")?`.
    let question = Question::new("What moves?").video(frames);
    println!("{}", pipeline.ask(question, &AskOptions::default())?.text);
    Ok(())
}
