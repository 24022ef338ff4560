//! Zero-shot classification: `cargo run --release --example classify photo.jpg "a red heart" "a dog"`

use vila_u::{Error, Pipeline, media};

fn main() -> vila_u::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next();
    let path = path.ok_or_else(|| Error::usage("give an image file and labels"))?;
    let labels: Vec<String> = args.collect();
    // Matching needs the vision tower alone, a fraction of the memory of the whole model.
    let pipeline = Pipeline::builder("nano").vision_only().build()?;
    let image = media::load(path.as_ref())?;
    let probabilities = pipeline.classify(image.clone(), &labels)?;
    for (label, probability) in labels.iter().zip(probabilities) {
        println!("{probability:.3}  {label}");
    }

    // The vectors behind it, for a search index or a classifier of your own.
    let image = pipeline.embed_image(image)?;
    println!("an image is a unit vector of {} numbers", image.len());
    Ok(())
}
