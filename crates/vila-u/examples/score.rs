//! Which caption fits an image best, by how probable the language model finds each:
//! `cargo run --release --example score photo.jpg "a red heart" "a dog"`

use vila_u::{
    Error, Pipeline,
    data::{Image, Pictures, Record, Text},
    text::conversation::Turn,
};

fn main() -> vila_u::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next();
    let path = path.ok_or_else(|| Error::usage("give an image file and captions"))?;
    let pipeline = Pipeline::from_pretrained("nano")?;
    for caption in args {
        let turns = [
            Turn::human("<image>\nDescribe this picture."),
            Turn::assistant(&caption),
        ];
        let record = Record {
            id: caption.clone(),
            text: Text::Turns(turns.to_vec()),
            pictures: Pictures::Images(vec![Image::File(path.clone().into())]),
        };
        // The mean of -log p over the caption's tokens, each given the ones before it.
        if let Some(loss) = pipeline.score(&record)?.score.text_loss {
            println!("{loss:.3}  {caption}");
        }
    }
    Ok(())
}
