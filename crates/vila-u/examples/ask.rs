//! Ask about a picture, the answer printed as it is generated:
//! `cargo run --release --example ask photo.jpg "What is in this picture?"`

use std::{
    io::{Write, stdout},
    ops::ControlFlow,
};

use vila_u::{AskEvent, AskOptions, Error, Pipeline, Question, media};

fn main() -> vila_u::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(text)) = (args.next(), args.next()) else {
        return Err(Error::usage("give an image file and a question"));
    };
    let pipeline = Pipeline::from_pretrained("nano")?;
    let question = Question::new(text).image(media::load(path.as_ref())?);
    let mut options = AskOptions::default();
    options.max_tokens = 64;
    let answer = pipeline.ask_stream(question, &options, &mut |event| {
        if let AskEvent::Text(text) = event {
            print!("{text}");
            let _ = stdout().flush();
        }
        ControlFlow::Continue(())
    })?;
    println!("\n{} tokens", answer.tokens.len());
    Ok(())
}
