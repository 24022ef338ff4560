//! Generate an image, with a preview now and then: `cargo run --release --example generate "a red heart"`

use std::ops::ControlFlow;

use vila_u::{Error, GenerateEvent, GenerateOptions, Pipeline, media::save_png};

fn main() -> vila_u::Result<()> {
    let prompt = std::env::args().nth(1);
    let prompt = prompt.ok_or_else(|| Error::usage("give a description"))?;
    let pipeline = Pipeline::from_pretrained("nano")?;
    let mut options = GenerateOptions::default();
    options.guidance = Some(3.0);
    options.seed = Some(7);
    let mut saved = Ok(());
    pipeline.generate_images_stream(&prompt, 1, &options, &mut |event| {
        saved = match event {
            // A preview decodes what there is: every 16 visual tokens is often enough.
            GenerateEvent::Progress(progress) if progress.done % 16 == 0 => {
                println!("{} of {} visual tokens", progress.done, progress.total);
                let preview = progress.preview();
                preview.and_then(|images| save_png("preview.png".as_ref(), &images[0]))
            }
            GenerateEvent::Done(image) => save_png("image.png".as_ref(), &image.frames[0]),
            _ => Ok(()),
        };
        if saved.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    saved
}
