//! Valid files of every kind, damaged at random and read: nothing may panic, abort, hang, or take more memory than a
//! small file is allowed.
//!
//! ```sh
//! FUZZ_SECONDS=600 cargo test --release -p vila-u --lib -- --ignored --nocapture fuzz
//! ```
//!
//! The file that is read last is kept in the folder that is printed first, for a process that is ended by what it
//! reads.

use std::{
    env, fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{DatasetFormat, KindWeights, SampleKind, Source, formats};
use crate::{
    Pipeline,
    catch_unwind::catch_unwind_silent,
    media::{
        self,
        video::{FrameSampling, frames},
    },
    memory,
};

/// Memory that one file may take.
const MOST_MEMORY: u64 = 512 << 20;
/// Time that one file may take.
const LONGEST: Duration = Duration::from_secs(30);
/// What numbers in files are often wrong by.
const NUMBERS: [u32; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    u32::MAX,
    0x0001_0000,
    0x00ff_ffff,
];

/// A kind of file: valid ones, and what reads them.
struct Kind {
    name: &'static str,
    files: Vec<Vec<u8>>,
    ending: &'static str,
    read: Box<dyn Fn(&Path)>,
}

impl Kind {
    fn new(
        name: &'static str,
        ending: &'static str,
        files: Vec<Vec<u8>>,
        read: impl Fn(&Path) + 'static,
    ) -> Self {
        Self {
            name,
            files,
            ending,
            read: Box::new(read),
        }
    }
}

#[test]
#[ignore = "runs for as long as FUZZ_SECONDS says"]
fn fuzz() {
    let seconds = env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(60));
    let folder = env::temp_dir().join("vila-u-fuzz");
    fs::create_dir_all(&folder).unwrap();
    let seed = env::var("FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random::<u32>().into());
    println!("FUZZ_SEED={seed}, files in {}", folder.display());
    let mut rng = StdRng::seed_from_u64(seed);
    let kinds = kinds(&folder);
    let mut read = vec![0_usize; kinds.len()];
    while Instant::now() < end {
        let index = rng.random_range(0..kinds.len());
        let kind = &kinds[index];
        let bytes = damaged(&kind.files, &mut rng);
        let path = folder.join(format!("last{}", kind.ending));
        fs::write(&path, &bytes).unwrap();
        let (before, started) = (resident("VmRSS:"), Instant::now());
        memory::forget_peak();
        let outcome = catch_unwind_silent(|| (kind.read)(&path));
        let taken = resident("VmHWM:").saturating_sub(before);
        let time = started.elapsed();
        if outcome.is_none() || taken > MOST_MEMORY || time > LONGEST {
            let kept = folder.join(format!("failed-{}{}", kind.name, kind.ending));
            fs::write(&kept, &bytes).unwrap();
            panic!(
                "{}: panicked: {}, {} of memory, {time:?}",
                kept.display(),
                outcome.is_none(),
                memory::in_words(taken)
            );
        }
        read[index] += 1;
    }
    for (kind, count) in kinds.iter().zip(read) {
        println!("{:14} {count} files", kind.name);
    }
}

fn resident(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.map_or(0, |kilobytes: u64| kilobytes << 10)
}

/// One of the files with up to eight changes.
fn damaged(files: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = files.choose(rng).cloned().unwrap_or_default();
    for _ in 0..rng.random_range(0..=8) {
        let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
        let end = (at + rng.random_range(0..64)).min(bytes.len());
        match rng.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let other = files.choose(rng).map_or(&[][..], Vec::as_slice);
                let from = rng.random_range(0..=other.len());
                bytes.splice(at..end, other[from..(from + 64).min(other.len())].to_vec());
            }
            _ => {
                let number = *NUMBERS.choose(rng).unwrap_or(&0);
                let number = match rng.random() {
                    true => number.to_le_bytes(),
                    false => number.to_be_bytes(),
                };
                let width = [1, 2, 4][rng.random_range(0..3)];
                let end = (at + width).min(bytes.len());
                bytes.splice(at..end, number[..width].to_vec());
            }
        }
    }
    bytes
}

fn kinds(folder: &Path) -> Vec<Kind> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let videos = |ending: &str| {
        let mut files = read_all(&tests.join("videos"), ending);
        files.extend(read_all(&tests.join("videos/animations"), ending));
        files.extend(read_all(&tests.join("videos/colours"), ending));
        files
    };
    let image = |path: &Path| drop(media::load(path).map(|picture| picture.rgb()));
    let video = |path: &Path| drop(frames(path, 8, FrameSampling::Training));
    let source = |format: DatasetFormat| {
        let source = Source {
            format,
            path: "unused".into(),
            folder: None,
            kind: None,
            weight: 1.0,
            held_out: false,
            gallery: 0.0,
            frames: 0.0,
        };
        move |path: &Path| {
            let kinds = KindWeights::only(SampleKind::Caption);
            if let Ok(records) = source.open(path, 0, &kinds, 0) {
                for record in records.take(1000).flatten() {
                    let images = match &record.pictures {
                        super::Pictures::Images(images) | super::Pictures::Frames(images) => {
                            images.as_slice()
                        }
                        super::Pictures::Video(_) => &[],
                    };
                    images.iter().take(2).for_each(|image| drop(image.read(64)));
                }
            }
        }
    };
    let picture = pictures().remove(1);
    let base64 = {
        use base64::{Engine, engine::general_purpose::STANDARD};
        STANDARD.encode(&picture)
    };
    let shard = formats::tests::tar(&[
        ("1.jpg", &picture),
        ("1.txt", b"a cat"),
        ("1.json", br#"{"caption": "a cat", "similarity": NaN}"#),
        ("2.png", &pictures()[0]),
        ("2.txt", b"a <image> of a dog"),
    ]);
    let turns =
        r#"[{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]"#;
    let llava = format!(r#"{{"id": "1", "image": "a.png", "conversations": {turns}}}"#);
    let page = format!(
        r#"{{"text_list": ["One.", "Two."], "similarity_matrix": [[0.2, NaN]], "image_info": [{{"image_base64": "{base64}", "matched_text_index": 1}}]}}"#
    );
    let vflan = format!(r#"{{"question": "What?", "answer:": "a dog", "image": ["{base64}"]}}"#);
    let pickle = formats::tests::dumped(&[("What?", "a dog", &[&base64]), ("Which?", "both", &[])]);
    let zip = formats::tests::zip(&[("a.jsonl", format!("{page}\n{page}").as_bytes())]);
    let lines = |line: &str| {
        vec![
            format!("{line}\n{line}\n").into_bytes(),
            format!("[{line}, {line}]").into_bytes(),
        ]
    };
    let mut kinds = vec![
        Kind::new("image", ".bin", pictures(), image),
        Kind::new("gif", ".gif", videos("gif"), video),
        Kind::new("webp", ".webp", videos("webp"), video),
        Kind::new("apng", ".png", videos("png"), video),
        Kind::new("mp4", ".mp4", videos("mp4"), video),
        Kind::new(
            "webdataset",
            ".tar",
            vec![shard],
            source(DatasetFormat::WebDataset),
        ),
        Kind::new(
            "llava",
            ".jsonl",
            lines(&llava),
            source(DatasetFormat::Llava),
        ),
        Kind::new("mmc4", ".jsonl", lines(&page), source(DatasetFormat::Mmc4)),
        Kind::new("mmc4-zip", ".zip", vec![zip], source(DatasetFormat::Mmc4)),
        Kind::new(
            "vflan",
            ".jsonl",
            lines(&vflan),
            source(DatasetFormat::Vflan),
        ),
        Kind::new("pickle", ".pkl", vec![pickle], source(DatasetFormat::Vflan)),
        Kind::new(
            "openvid",
            ".csv",
            vec![b"video,caption,fps\na.mp4,\"a man, and\n a dog\",25\nb.mp4,a cat,1\n".to_vec()],
            source(DatasetFormat::OpenVid),
        ),
        Kind::new(
            "parquet",
            ".parquet",
            read_all(&tests.join("parquet"), "parquet"),
            source(DatasetFormat::Parquet),
        ),
    ];
    // A whole model, one file of which is damaged.
    for name in [
        "config.json",
        "llm/config.json",
        "llm/tokenizer.model",
        "llm/tokenizer_config.json",
        "llm/added_tokens.json",
        "mm_projector/model.safetensors",
        "vision_tower/config.json",
        "siglip/config.json",
    ] {
        let original = tests.join("golden/tiny-d4/checkpoint");
        let copy = folder.join(name.replace('/', "-"));
        copy_all(&original, &copy);
        let file = fs::read(original.join(name)).unwrap();
        kinds.push(Kind::new(name, ".part", vec![file], move |path| {
            fs::copy(path, copy.join(name)).unwrap();
            drop(Pipeline::from_pretrained(copy.display().to_string()));
        }));
    }
    for kind in &mut kinds {
        assert!(!kind.files.is_empty(), "{}", kind.name);
        for file in &kind.files {
            let path = folder.join(format!("whole{}", kind.ending));
            fs::File::create(&path).unwrap().write_all(file).unwrap();
            (kind.read)(&path);
        }
    }
    kinds
}

fn read_all(folder: &Path, ending: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let fits = |path: &&PathBuf| path.extension().is_some_and(|found| found == ending);
    paths
        .iter()
        .filter(fits)
        .map(|path| fs::read(path).unwrap())
        .collect()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// An image in each format, with and without transparency; PNG first, then JPEG.
fn pictures() -> Vec<Vec<u8>> {
    let opaque = RgbImage::from_fn(23, 17, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8]));
    let transparent = RgbaImage::from_fn(23, 17, |x, y| {
        image::Rgba([x as u8, 9, y as u8, (x * 11) as u8])
    });
    let encode = |image: &DynamicImage, format| {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Gif,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ];
    let opaque = DynamicImage::from(opaque);
    let mut files: Vec<Vec<u8>> = formats.map(|format| encode(&opaque, format)).to_vec();
    let transparent = DynamicImage::from(transparent);
    files.extend([ImageFormat::Png, ImageFormat::WebP].map(|format| encode(&transparent, format)));
    files.push(encode(
        &DynamicImage::from(opaque.to_luma16()),
        ImageFormat::Png,
    ));
    files
}
