use image::{DynamicImage, RgbImage};

use super::*;
use crate::evaluation::metrics::psnr;

fn usage<T>(result: Result<T>, words: &str) {
    match result {
        Err(Error::Usage(reason)) => assert!(reason.contains(words), "{reason}"),
        Err(other) => unreachable!("{other}"),
        Ok(_) => unreachable!("no error about {words}"),
    }
}

fn ask(change: impl Fn(&mut AskOptions)) -> AskOptions {
    let mut options = AskOptions {
        max_tokens: 2,
        ..AskOptions::default()
    };
    change(&mut options);
    options
}

fn generate(change: impl Fn(&mut GenerateOptions)) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    change(&mut options);
    options
}

/// Whatever is asked for, it is an answer or an error.
#[test]
fn impossible_requests_are_usage_errors() {
    let pipeline = Pipeline::from_pretrained("nano").unwrap();
    let (image, empty) = (RgbImage::new(8, 8), RgbImage::new(0, 3));
    let asked = |question: Question| pipeline.ask(question, &ask(|_| {}));
    usage(
        asked(Question::new("<image> or <image>?").image(image.clone())),
        "2 x <image>",
    );
    usage(asked("<image>".into()), "1 x <image>");
    usage(asked("<video>?".into()), "1 x <video>");
    usage(asked(Question::new("What?").image(empty.clone())), "0 x 3");
    usage(
        asked(Question::new("What?").video(Vec::<RgbImage>::new())),
        "at least one frame",
    );
    usage(
        asked(Question::new("What?").video([image.clone(), empty.clone()])),
        "0 x 3",
    );
    usage(asked("long ".repeat(9999).into()), "positions");
    usage(
        pipeline.ask("Why?", &ask(|o| o.max_tokens = 0)),
        "at least one token",
    );
    usage(
        pipeline.ask("Why?", &ask(|o| o.temperature = Some(f64::NAN))),
        "temperature",
    );
    usage(pipeline.ask("Why?", &ask(|o| o.top_p = Some(0.0))), "top-p");
    usage(
        pipeline.ask("Why?", &ask(|o| o.guidance = Some(f64::INFINITY))),
        "guidance",
    );

    let generated = |prompt: &str, n, options| pipeline.generate_images(prompt, n, &options);
    usage(generated("a dog", 0, generate(|_| {})), "at least one");
    usage(generated("<image>", 1, generate(|_| {})), "words alone");
    usage(
        generated("a dog", 1, generate(|o| o.temperature = Some(f64::NAN))),
        "temperature",
    );
    usage(
        generated("a dog", 1, generate(|o| o.top_p = Some(2.0))),
        "top-p",
    );
    usage(
        generated("a dog", 1, generate(|o| o.guidance = Some(f64::NAN))),
        "guidance",
    );
    usage(
        pipeline.generate_video("a <video>", &generate(|_| {})),
        "words alone",
    );

    usage(pipeline.encode(empty.clone()), "0 x 3");
    usage(
        pipeline.reconstruct(DynamicImage::from(empty.clone())),
        "0 x 3",
    );
    usage(pipeline.embed_image(empty.clone()), "0 x 3");
    usage(pipeline.classify(empty, &["a", "b"]), "0 x 3");
    usage(pipeline.classify(image, &["a"]), "two labels");
    usage(Codes::new([0, 8, 4], vec![]), "no grid");
    usage(Codes::new([usize::MAX, 2, 1], vec![0]), "no grid");
    let codes = |shape: [usize; 3], code| Codes::new(shape, vec![code; shape.iter().product()]);
    usage(pipeline.decode(&codes([8, 8, 3], 0).unwrap()), "8x8x3");
    usage(pipeline.decode(&codes([8, 8, 4], -1).unwrap()), "code -1");
    usage(pipeline.decode(&codes([8, 8, 4], 512).unwrap()), "code 512");

    usage(Pipeline::builder("nano").device("abacus").build(), "abacus");
    usage(
        Pipeline::builder("nano")
            .device("cpu")
            .dtype(WeightDtype::F16)
            .build(),
        "f16",
    );
    assert!(Pipeline::from_pretrained("no/such/folder").is_err());
    usage(Pipeline::from_pretrained(""), "model is empty");
}

#[test]
fn a_pipeline_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Pipeline>();
}

/// Codes of an image are the same by either way of loading, and decode to its reconstruction.
#[test]
fn the_tower_alone_sees_the_same() {
    let image = RgbImage::from_fn(40, 30, |x, y| image::Rgb([6 * x as u8, 8 * y as u8, 90]));
    let whole = Pipeline::from_pretrained("nano").unwrap();
    let vision = Pipeline::builder("nano").vision_only().build().unwrap();
    let codes = whole.encode(image.clone()).unwrap().codes;
    assert_eq!(codes, vision.encode(image.clone()).unwrap().codes);
    // Straight through the quantizer the features are the codes' up to rounding.
    let (back, decoded) = (
        vision.reconstruct(image).unwrap(),
        whole.decode(&codes).unwrap(),
    );
    assert!(psnr(&back.image, &decoded).is_some_and(|psnr| psnr > 50.0));
    usage(vision.video_frames(), "vision_only");
}

#[test]
fn a_seed_gives_the_same_image_again() {
    let pipeline = Pipeline::builder("nano").seed(5).build().unwrap();
    let make = |n, options| pipeline.generate_images("a dog", n, &options).unwrap();
    let two = make(2, generate(|o| o.temperature = Some(1.0)));
    assert!(two[0] != two[1]);
    let hot = |seed| {
        generate(move |o: &mut GenerateOptions| {
            o.temperature = Some(1.0);
            o.seed = seed;
        })
    };
    assert!(make(1, hot(Some(5)))[0] == two[0]);
    assert!(make(1, hot(Some(6)))[0] != two[0]);
}
