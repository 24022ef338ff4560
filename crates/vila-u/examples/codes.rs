//! Look at the codes of an image, and change them: `cargo run --release --example codes photo.jpg`

use vila_u::{Codes, Error, Pipeline, media};

fn main() -> vila_u::Result<()> {
    let path = std::env::args().nth(1);
    let path = path.ok_or_else(|| Error::usage("give an image file"))?;
    let pipeline = Pipeline::builder("nano").vision_only().build()?;
    let encoded = pipeline.encode(media::load(path.as_ref())?)?;
    let [rows, columns, depth] = encoded.codes.shape();
    println!(
        "{rows} x {columns} positions of {depth} codes out of {}",
        pipeline.codebook_size()
    );
    for row in 0..rows {
        let first = (0..columns).filter_map(|column| encoded.codes.at(row, column)?.first());
        println!(
            "{}",
            first.map(|code| format!("{code:4}")).collect::<String>()
        );
    }

    // The image if all its positions had the codes of the one in the middle.
    let middle = encoded.codes.at(rows / 2, columns / 2).unwrap_or_default();
    let flat = Codes::new(encoded.codes.shape(), middle.repeat(rows * columns))?;
    media::save_png("flat.png".as_ref(), &pipeline.decode(&flat)?)?;

    let channels = encoded.features.shape()[2];
    println!("the features that the codes stand for have {channels} channels");
    Ok(())
}
