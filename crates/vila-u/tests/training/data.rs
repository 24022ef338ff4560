//! Runs on files: a miniature of every format in its published layout, all three stages of training,
//! resuming in the middle of a shard, and records that cannot be used.
//!
//! One file, as every format is a layout of the same few records.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ImageFormat, Rgb, RgbImage};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use super::{LANGUAGE, TOWER, assert_same_model, metrics, train};
use vila_u::Error;
use vila_u::media::video;
use vila_u::training::data::inspect::{Inspected, inspect};
use vila_u::training::recipe::Recipe;

const SAID: [(&str, [u8; 3]); 4] = [
    ("a red square", [200, 30, 30]),
    ("a green square", [30, 180, 40]),
    ("a blue square", [20, 40, 210]),
    ("a white square", [250, 250, 250]),
];

fn said(n: usize) -> &'static str {
    SAID[n % SAID.len()].0
}

/// A square on black, as a file of the format.
fn picture(n: usize, format: ImageFormat) -> Vec<u8> {
    let colour = Rgb(SAID[n % SAID.len()].1);
    let picture = RgbImage::from_fn(24, 16, |x, y| {
        if (6..18).contains(&x) && y > 3 {
            colour
        } else {
            Rgb([0; 3])
        }
    });
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).expect("a picture");
    file.into_inner()
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("write");
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_slice())
            .expect("tar");
    }
    tar.into_inner().expect("tar")
}

/// Shards as `img2dataset` writes them.
fn webdataset(folder: &Path) {
    for shard in 0..3 {
        let mut files = Vec::new();
        for n in 0..4 {
            let key = format!("{shard:05}{n:04}");
            let facts = json!({
                "url": "https://example.org/a.jpg", "key": key, "status": "success", "error_message": null,
                "width": 24, "height": 16, "original_width": 24, "original_height": 16, "exif": "{}",
                "clip_similarity_vitb32": 0.3, "watermark_score": 0.1, "sha256": "00",
            });
            files.push((format!("{key}.jpg"), picture(n, ImageFormat::Jpeg)));
            files.push((format!("{key}.json"), facts.to_string().into_bytes()));
            files.push((format!("{key}.txt"), said(n).into()));
        }
        write(&folder.join(format!("{shard:05}.tar")), tar(&files));
    }
}

/// One array of conversations beside a folder of images; one of the records is text alone.
fn llava(folder: &Path) {
    let mut records = Vec::new();
    for n in 0..6 {
        let image = format!("coco/train2017/{n:012}.jpg");
        write(
            &folder.join("images").join(&image),
            picture(n, ImageFormat::Jpeg),
        );
        records.push(
            json!({"id": format!("{n:012}"), "image": image, "conversations": [
                {"from": "human", "value": "<image>\nWhat is in this picture?"},
                {"from": "gpt", "value": said(n)},
                {"from": "human", "value": "How many?"},
                {"from": "gpt", "value": "one"},
            ]}),
        );
    }
    records.push(json!({"id": "wgByO4Y_0", "model": "", "conversations": [
        {"from": "human", "value": "Is a square round?"}, {"from": "gpt", "value": "no"},
    ]}));
    write(&folder.join("llava.json"), Value::from(records).to_string());
}

/// Pages of several pictures: in a folder, in a tar file, in the record.
fn mmc4(folder: &Path) {
    let page = |n: usize, info: &dyn Fn(usize) -> Value| {
        json!({
            "url": "https://example.org", "could_have_url_duplicate": 0,
            "text_list": ["Squares.", said(n), "And then there is", said(n + 1)],
            "image_info": [info(n), info(n + 1)],
            "similarity_matrix": [[0.1, 0.3, 0.1, 0.2], [0.1, 0.2, 0.1, 0.3]],
        })
    };
    let at = |n: usize, first: usize| if n == first { 1 } else { 3 };
    let named = |first: usize| {
        let info = move |n: usize| {
            json!({"image_name": format!("{n}.png"), "raw_url": "https://example.org/a.png",
                   "matched_text_index": at(n, first), "matched_sim": 0.3})
        };
        page(first, &info).to_string()
    };
    let images = folder.join("images");
    for n in 0..5 {
        write(
            &images.join(format!("{n}.png")),
            picture(n, ImageFormat::Png),
        );
    }
    let lines: Vec<String> = (0..4).map(named).collect();
    write(&folder.join("docs_shard_0_v2.jsonl"), lines.join("\n"));
    write(&folder.join("docs_shard_1_v2.jsonl"), lines.join("\n"));
    let files: Vec<_> = (0..5)
        .map(|n| (format!("{n}.png"), picture(n, ImageFormat::Png)))
        .collect();
    write(&images.join("docs_shard_1_v2.tar"), tar(&files));
    let inside = |first: usize| {
        let info = move |n: usize| {
            let content = STANDARD.encode(picture(n, ImageFormat::Png));
            json!({"image_base64": content, "matched_text_index": at(n, first), "matched_sim": 0.3})
        };
        page(first, &info).to_string()
    };
    let lines: Vec<String> = (0..4).map(inside).collect();
    write(&folder.join("docs_shard_2_v2.jsonl"), lines.join("\n"));
}

/// The CSV of OpenVid beside videos, MP4s and GIFs.
fn openvid(folder: &Path) {
    let mut csv =
        "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,\
                   frame,fps,seconds\n"
            .to_string();
    for (n, (said, colour)) in SAID.iter().enumerate() {
        let frame = |at: u8| RgbImage::from_pixel(16, 16, Rgb([colour[0], colour[1], at * 20]));
        let frames: Vec<RgbImage> = (0..9).map(frame).collect();
        let name = format!("celebv_{n}_0.{}", ["mp4", "gif"][n % 2]);
        let path = folder.join("video").join(&name);
        fs::create_dir_all(folder.join("video")).expect("a folder");
        video::save(&path, &frames, video::RATE).expect("a video");
        csv += &format!(
            "{name},\"{}, and it changes\",5.2,3.6,0.99,static,9,25.0,0.36\n",
            said
        );
    }
    write(&folder.join("OpenVid-1M.csv"), csv);
}

/// Questions about one picture, about a few, and about none.
fn vflan(folder: &Path) {
    let content = |n| STANDARD.encode(picture(n, ImageFormat::Jpeg));
    let records = [
        json!({"question": "<image>\nWhat is it?", "answer:": said(0), "image": [content(0)]}),
        json!({"question": "What is it?\n", "answer:": said(1), "image:": content(1)}),
        json!({"question": "What changes?", "answer": "the colour", "image": [content(1), content(2)]}),
        json!({"question": "Is it round?", "answer": "no", "image": []}),
    ];
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    write(&folder.join("vision_flan_0.jsonl"), lines.join("\n"));
}

/// Values, definition levels and repetition levels.
type Column = (Vec<Vec<u8>>, Vec<i16>, Option<Vec<i16>>);

/// A table in the layout of LLaVA-OneVision-Data.
fn parquet(folder: &Path) {
    let schema = "message schema {
        optional binary id (STRING);
        optional group image { optional binary bytes; optional binary path (STRING); }
        optional group conversations (LIST) { repeated group list { optional group element {
            optional binary from (STRING); optional binary value (STRING); } } }
    }";
    let rows = 4;
    let each = |value: &dyn Fn(usize) -> Vec<u8>, level| {
        (
            (0..rows).map(value).collect::<Vec<_>>(),
            vec![level; rows],
            None,
        )
    };
    let turns = |parts: [&dyn Fn(usize) -> Vec<u8>; 2]| {
        let values = (0..rows).flat_map(|n| parts.map(|part| part(n))).collect();
        (values, vec![4; 2 * rows], Some([0, 1].repeat(rows)))
    };
    let columns: [Column; 5] = [
        each(&|n| n.to_string().into(), 1),
        each(&|n| picture(n, ImageFormat::Png), 2),
        (Vec::new(), vec![1; rows], None),
        turns([&|_| b"human".to_vec(), &|_| b"gpt".to_vec()]),
        turns([&|_| b"<image>\nWhat is it?".to_vec(), &|n| said(n).into()]),
    ];
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let mut file = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut file, schema, Default::default()).expect("a table");
    let mut group = writer.next_row_group().expect("rows");
    for (values, definitions, repetitions) in columns {
        let mut column = group.next_column().expect("a column").expect("a column");
        let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
        if let ColumnWriter::ByteArrayColumnWriter(writer) = column.untyped() {
            let written = writer.write_batch(&values, Some(&definitions), repetitions.as_deref());
            written.expect("values");
        }
        column.close().expect("a column");
    }
    group.close().expect("rows");
    writer.close().expect("a table");
    write(&folder.join("train-00000-of-00001.parquet"), file);
}

/// A miniature of every format, made once.
fn data() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        webdataset(&folder.path().join("coyo"));
        llava(&folder.path().join("sharegpt4v"));
        mmc4(&folder.path().join("mmc4"));
        openvid(&folder.path().join("openvid"));
        vflan(&folder.path().join("vflan"));
        parquet(&folder.path().join("onevision"));
        folder
    });
    made.path()
}

/// `[data]` with these sources, each the rest of its keys.
fn sources(lines: &[&str]) -> String {
    let mut text = "[data]\nshuffle_buffer = 5\nnum_workers = 3\n".to_string();
    for line in lines {
        text += &format!("[[data.sources]]\n{line}\n");
    }
    text.replace("DATA", &data().display().to_string())
}

pub const COYO: &str = "format = \"webdataset\"\npath = \"DATA/coyo/{00000..00002}.tar\"";
const LLAVA: &str =
    "format = \"llava\"\npath = \"DATA/sharegpt4v/*.json\"\nfolder = \"DATA/sharegpt4v/images\"";
const MMC4: &str = "format = \"mmc4\"\npath = \"DATA/mmc4/docs_shard_{0..2}_v2.jsonl\"\nfolder = \"DATA/mmc4/images\"";
const OPENVID: &str =
    "format = \"openvid\"\npath = \"DATA/openvid/OpenVid-1M.csv\"\nfolder = \"DATA/openvid/video\"";
const VFLAN: &str = "format = \"vflan\"\npath = \"DATA/vflan/*.jsonl\"";
const PARQUET: &str = "format = \"parquet\"\npath = \"DATA/onevision/*.parquet\"";

pub fn with(source: &str, more: &str) -> String {
    format!("{source}\n{more}")
}

/// A recipe of a language model, pretrained or tuned on files.
pub fn language(kind: &str, data: &[&str]) -> String {
    let (sizes, _) = LANGUAGE.split_at(LANGUAGE.find("[[stages]]").expect("stages"));
    let stage = format!(
        "[[stages]]\nobjective = {{ kind = \"{kind}\", cfg_dropout = 0.5, visual_token_dropout = 0.5 }}\noptimizer = OPTIMIZER\n"
    );
    format!("{sizes}\n{}\n{stage}", sources(data))
}

/// The setting that starts a language run on a tower of two steps, made once.
pub fn init() -> String {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        train(
            TOWER,
            &folder.path().join("tower"),
            &["steps=2"],
            false,
            None,
        )
        .expect("a tower");
        folder
    });
    format!("init={}", made.path().join("tower/model").display())
}

#[test]
fn the_language_model_trains_from_every_format() {
    let caption = with(COYO, "kind = \"caption\"");
    let generation = with(COYO, "kind = \"generation\"");
    let video = with(OPENVID, "kind = \"video_generation\"");
    let described = with(OPENVID, "kind = \"video_question\"");
    // What there is to predict of each.
    for (kind, source, text, visual) in [
        ("pretrain", caption.as_str(), true, false),
        ("pretrain", &generation, true, true),
        ("pretrain", LLAVA, true, false),
        ("pretrain", MMC4, true, false),
        ("pretrain", &video, true, true),
        ("sft", &described, true, false),
        ("sft", VFLAN, true, false),
        ("sft", PARQUET, true, false),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("run");
        let settings = [init(), "steps=3".into()];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        train(&language(kind, &[source]), &out, &settings, false, None).expect("a run");
        let metrics = metrics(&out);
        assert_eq!(metrics.len(), 3, "{source}");
        for line in &metrics {
            assert_eq!(line["text_loss"].is_f64(), text, "{source}: {line}");
            assert_eq!(line["visual_loss"].is_f64(), visual, "{source}: {line}");
        }
        assert!(!out.join("skipped.jsonl").exists(), "{source}");
    }
}

#[test]
fn three_stages_run_from_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, recipe: &str, init: Option<&Path>| {
        let init = init.map(|path| format!("init={}", path.display()));
        let mut settings = vec!["steps=6", "batch_size=6", "eval_every=3", "sample_every=6"];
        settings.extend(init.as_deref());
        let out = folder.path().join(name);
        let model = train(recipe, &out, &settings, false, None).expect("a run");
        assert!(out.join("samples/step-00000006.png").is_file(), "{name}");
        (model, metrics(&out))
    };
    let held_out = with(COYO, "kind = \"generation\"\nheld_out = true");
    // Of text alone the tower learns nothing: it is skipped.
    let tower = format!(
        "{}\n{TOWER}",
        sources(&[COYO, LLAVA, MMC4, PARQUET, &held_out])
    );
    let (tower, metrics) = run("tower", &tower, None);
    assert!(metrics[5]["eval/psnr"].is_f64() && metrics[5]["pixel"].is_f64());

    let caption = with(COYO, "kind = \"caption\"");
    let generation = with(COYO, "kind = \"generation\"\nweight = 2.0");
    let video = with(OPENVID, "kind = \"video_generation\"");
    let sources = [&caption, &generation, MMC4, LLAVA, &video, &held_out];
    let (pretrained, metrics) = run("pretrain", &language("pretrain", &sources), Some(&tower));
    assert!(metrics[2]["eval/visual_loss"].is_f64() && metrics[2]["eval/text_loss"].is_f64());

    let described = with(OPENVID, "kind = \"video_question\"");
    let sources = [VFLAN, PARQUET, LLAVA, &generation, &described, &held_out];
    let recipe = language("sft", &sources);
    let stages = &recipe[recipe.find("[data]").expect("data")..];
    let (_, metrics) = run("sft", stages, Some(&pretrained));
    assert_eq!(metrics.len(), 6);
}

#[test]
fn a_resumed_run_reads_on_where_it_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    // Every third record names a picture that is not there, and one line is none.
    let lines = folder.path().join("bad.jsonl");
    let mut text = String::new();
    for n in 0..20 {
        let image = match n % 3 {
            0 => "missing.jpg".into(),
            _ => format!("{:012}.jpg", n % 6),
        };
        let record = json!({"id": n, "image": image, "conversations": [
            {"from": "human", "value": "<image>"}, {"from": "gpt", "value": said(n)},
        ]});
        text += &format!("{record}\n");
    }
    fs::write(&lines, text + "{\n").expect("write");
    let bad = format!(
        "format = \"llava\"\npath = {lines:?}\nfolder = \"DATA/sharegpt4v/images/coco/train2017\"\nweight = 2.0"
    );
    let generation = with(COYO, "kind = \"generation\"");
    let recipe = language("pretrain", &[&generation, &bad, MMC4]);
    let settings = [
        init(),
        "gradient_accumulation_steps=2".into(),
        "depth_dropout=0.0".into(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let whole = folder.path().join("whole");
    let expected = train(&recipe, &whole, &settings, false, None).expect("a run");
    let skipped = |out: &Path| fs::read_to_string(out.join("skipped.jsonl")).expect("skipped");
    let first: Value =
        serde_json::from_str(skipped(&whole).lines().next().expect("a line")).expect("json");
    assert!(first["reason"].is_string() && first["key"].is_string() && first["shard"].is_string());
    for stop in [3, 6] {
        let out = folder.path().join(format!("stopped-{stop}"));
        let stopped = train(&recipe, &out, &settings, false, Some(stop));
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        // What came after the checkpoint, as of a run that was cut off, does not count.
        let line = "{\"shard\": \"later\"}\n";
        fs::write(out.join("skipped.jsonl"), skipped(&out) + line).expect("write");
        let model = train(&recipe, &out, &settings, true, None).expect("a run");
        assert_same_model(&expected, &model, &["llm", "mm_projector", "vision_tower"]);
        assert_eq!(metrics(&whole), metrics(&out));
        assert_eq!(skipped(&whole), skipped(&out));
    }
    // It goes on with fewer workers, but not with other data.
    let other = [settings.as_slice(), &["data.num_workers=2", "steps=9"]].concat();
    train(&recipe, &whole, &other, true, None).expect("a run");
    assert_eq!(metrics(&whole).len(), 9);
    let listed = fs::read_to_string(whole.join("sources.json")).expect("a list");
    assert!(
        listed.contains("bad.jsonl") && listed.contains("bytes"),
        "{listed}"
    );
    let text = fs::read_to_string(&lines).expect("records");
    fs::write(&lines, text + "{\n").expect("write");
    let error = train(&recipe, &whole, &settings, true, None).expect_err("an error");
    let error = error.to_string();
    assert!(
        error.contains("bad.jsonl had") && error.contains("when the run began"),
        "{error}"
    );
}

#[test]
fn what_stops_a_run_is_named_by_shard_and_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = language("pretrain", &[&with(COYO, "kind = \"generation\"")]);
    let rate = "stages.0.optimizer.learning_rate=1e30";
    let settings = [init(), rate.into(), "depth_dropout=0.0".into()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let out = folder.path().join("run");
    let error = train(&recipe, &out, &settings, false, None).expect_err("an error");
    let json = fs::read(out.join("failed.json")).expect("a file");
    let failed: Value = serde_json::from_slice(&json).expect("JSON");
    let sample = &failed["samples"][0];
    let (key, shard) = (sample["key"].as_str(), sample["shard"].as_str());
    let (key, shard) = (key.expect("a key"), shard.expect("a shard"));
    assert!(shard.ends_with(".tar") && key.len() == 9, "{sample}");
    assert!(
        error.to_string().contains(&format!("{key} of {shard}")),
        "{error}"
    );
}

#[test]
fn too_many_bad_records_stop_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = folder.path().join("bad.jsonl");
    let record = json!({"image": "missing.jpg", "conversations": [
        {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a cat"},
    ]});
    fs::write(&lines, format!("{record}\n").repeat(9)).expect("write");
    let bad = format!("format = \"llava\"\npath = {lines:?}");
    let settings = [init(), "data.max_skipped=4".into()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let out = folder.path().join("run");
    let error =
        train(&language("pretrain", &[&bad]), &out, &settings, false, None).expect_err("an error");
    let error = error.to_string();
    for part in [
        "5 records",
        "data.max_skipped = 4",
        "missing.jpg",
        "skipped.jsonl",
    ] {
        assert!(error.contains(part), "no {part} in: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
    let skipped = fs::read_to_string(out.join("skipped.jsonl")).expect("skipped");
    assert_eq!(skipped.lines().count(), 5);
}

/// Three bad records that come again in every epoch are three, over a stop and a resumption too. A page without one of
/// its pictures is none of them.
#[test]
fn a_bad_record_counts_once_however_often_it_is_met() {
    let folder = tempfile::tempdir().expect("a folder");
    let (lines, pages) = (
        folder.path().join("six.jsonl"),
        folder.path().join("pages.jsonl"),
    );
    let record = |n: usize| {
        let image = if n < 3 {
            "missing.jpg"
        } else {
            "000000000001.jpg"
        };
        let record = json!({"id": n, "image": image, "conversations": [
            {"from": "human", "value": "<image>"}, {"from": "gpt", "value": said(n)},
        ]});
        format!("{record}\n")
    };
    fs::write(&lines, (0..6).map(record).collect::<String>()).expect("write");
    let page = json!({"text_list": ["One.", "Two."], "image_info": [
        {"image_name": "000000000001.jpg", "matched_text_index": 0},
        {"image_name": "missing.jpg", "matched_text_index": 1},
    ]});
    fs::write(&pages, page.to_string()).expect("write");
    let images = "folder = \"DATA/sharegpt4v/images/coco/train2017\"";
    let source =
        |format: &str, path: &Path| format!("format = \"{format}\"\npath = {path:?}\n{images}");
    let recipe = language(
        "pretrain",
        &[&source("llava", &lines), &source("mmc4", &pages)],
    );
    let settings = [init(), "data.max_skipped=3".into(), "steps=12".into()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let out = folder.path().join("run");
    let stopped = train(&recipe, &out, &settings, false, Some(6));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    train(&recipe, &out, &settings, true, None).expect("a run");
    let text = fs::read_to_string(out.join("skipped.jsonl")).expect("skipped");
    let skipped: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let pictures = skipped.iter().filter(|one| one["picture"] == true).count();
    assert_eq!((skipped.len(), pictures), (4, 1), "{text}");
    let last = metrics(&out).pop().expect("a step");
    assert_eq!(
        (last["skipped"].as_f64(), last["pictures_left_out"].as_f64()),
        (Some(3.0), Some(1.0))
    );
}

#[test]
fn mistakes_in_sources_are_named() {
    for (kind, source, expected) in [
        ("pretrain", COYO.to_string(), "kind is needed"),
        (
            "pretrain",
            with(LLAVA, "kind = \"caption\""),
            "kind is of captions",
        ),
        ("pretrain", with(LLAVA, "wieght = 2"), "wieght"),
        ("pretrain", with(LLAVA, "weight = 0"), "a weight above 0"),
        (
            "pretrain",
            with(OPENVID, "kind = \"video_question\""),
            "fine-tuning",
        ),
        ("sft", with(COYO, "kind = \"video\""), "video"),
        (
            "sft",
            "format = \"webdatset\"\npath = \"x\"".into(),
            "webdatset",
        ),
        (
            "sft",
            "format = \"llava\"\npath = \"DATA/none/{0..1}.json\"".into(),
            "none/0.json",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("run");
        let init = init();
        let error = train(&language(kind, &[&source]), &out, &[&init], false, None);
        let error = error.expect_err("an error").to_string();
        assert!(error.contains(expected), "{source}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = format!("{}\n{LANGUAGE}", sources(&[LLAVA]));
    let error = train(&recipe, &folder.path().join("run"), &[], false, None).expect_err("an error");
    assert!(
        error.to_string().contains("weights of their own"),
        "{error}"
    );
}

/// Videos of both datasets that have them: what is seen of them, and those that cannot be.
#[test]
fn videos_are_read_from_mp4_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let shades = |count: u8| {
        let frame = |at: u8| RgbImage::from_pixel(16, 16, Rgb([at * 20; 3]));
        (0..count).map(frame).collect::<Vec<_>>()
    };
    let save = |name: &str, count| {
        let path = folder.path().join(name);
        video::save(&path, &shades(count), video::RATE).expect("a video");
        path
    };
    save("long.mp4", 12);
    save("short.mp4", 3);
    let cut = save("cut.mp4", 12);
    let whole = fs::read(&cut).expect("a file");
    // Its last bytes are those of the index, without which no frame is found.
    fs::write(&cut, &whole[..whole.len() - 20]).expect("write");
    let csv = "video,caption\ncut.mp4,grey\nlong.mp4,grey\nshort.mp4,grey\n";
    write(&folder.path().join("a.csv"), csv);
    let about = |video: &str, human: &str, assistant: &str| {
        json!({"video": video, "conversations": [
            {"from": "human", "value": human}, {"from": "gpt", "value": assistant},
        ]})
        .to_string()
    };
    let lines = [
        about("long.mp4", "<video>\nWhat is it?", "grey"),
        about("short.mp4", "Grey, please.", "Here: <video>"),
    ];
    write(&folder.path().join("a.jsonl"), lines.join("\n"));
    let at = folder.path().display();
    let source = |rest: &str| format!("{rest}\nfolder = \"{at}\"");
    let openvid = source(&format!(
        "format = \"openvid\"\npath = \"{at}/a.csv\"\nkind = \"video_generation\""
    ));
    let llava = source(&format!("format = \"llava\"\npath = \"{at}/a.jsonl\""));
    for (source, keys) in [(&openvid, ["long.mp4", "short.mp4"]), (&llava, ["1", "2"])] {
        let path = folder.path().join("recipe.toml");
        let text = language("sft", &[source]);
        let text = format!(
            "out = {:?}\n{}\n{text}",
            folder.path().join("run"),
            super::COMMON
        );
        write(&path, text.replace("OPTIMIZER", super::OPTIMIZER));
        let tokenizers = format!("model.tokenizers={}", super::tokenizers().display());
        let objective = "stages.0.objective";
        let settings = [
            init(),
            tokenizers,
            format!("{objective}.cfg_dropout=0.0"),
            format!("{objective}.visual_token_dropout=0.0"),
        ];
        let recipe = Recipe::load(&path, &settings).expect("a recipe");
        let mut samples = inspect(&recipe, 9).expect("samples").samples;
        samples.sort_by(|a, b| a.key.cmp(&b.key));
        let names: Vec<&str> = samples.iter().map(|sample| sample.key.as_str()).collect();
        assert_eq!(names, keys);
        let levels = |sample: &Inspected| -> Vec<u8> {
            let level = |picture: &RgbImage| picture.get_pixel(5, 5)[0];
            sample.pictures.iter().map(level).collect()
        };
        // floor(linspace(0, n - 2, 8)) of twelve frames; of three, all after five black ones.
        for (sample, expected) in samples.iter().zip([
            [0, 20, 40, 80, 100, 140, 160, 200_u8],
            [0, 0, 0, 0, 0, 0, 20, 40],
        ]) {
            let levels = levels(sample);
            let near = levels.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 4);
            assert!(levels.len() == 8 && near, "{}: {levels:?}", sample.key);
            let made = sample.pieces.iter().find(|piece| piece.text == "<image>");
            let about = source == &llava && sample.key == "1";
            assert_eq!(made.map(|piece| piece.loss), Some(!about), "{}", sample.key);
        }
    }
}

#[test]
fn inspecting_shows_what_is_learnt() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recipe.toml");
    let text = language(
        "pretrain",
        &[&with(COYO, "kind = \"generation\""), MMC4, LLAVA],
    );
    let text = format!(
        "out = {:?}\n{}\n{text}",
        folder.path().join("run"),
        super::COMMON
    );
    fs::write(&path, text.replace("OPTIMIZER", super::OPTIMIZER)).expect("write");
    let tokenizers = format!("model.tokenizers={}", super::tokenizers().display());
    let settings = [
        init(),
        tokenizers,
        "stages.0.objective.cfg_dropout=0.0".into(),
    ];
    let recipe = Recipe::load(&path, &settings).expect("a recipe");
    let samples = inspect(&recipe, 21).expect("samples").samples;
    // None comes twice: they end where the seven conversations do.
    assert!((19..=21).contains(&samples.len()), "{}", samples.len());
    for sample in &samples {
        let texts: Vec<&str> = sample
            .pieces
            .iter()
            .map(|piece| piece.text.as_str())
            .collect();
        let loss: Vec<&str> = sample
            .pieces
            .iter()
            .filter(|piece| piece.loss)
            .map(|piece| piece.text.as_str())
            .collect();
        assert_eq!(texts[0], "<s>");
        let images = texts.iter().filter(|text| **text == "<image>").count();
        assert_eq!(images, sample.pictures.len());
        assert_eq!(
            sample
                .pieces
                .iter()
                .map(|piece| piece.positions)
                .sum::<usize>(),
            sample.positions
        );
        if sample.source.contains("coyo") {
            assert_eq!(loss.last(), Some(&"</s>"));
            assert_eq!(
                loss[loss.len() - 4..],
                ["<im_start>", "<image>", "<im_end>", "</s>"]
            );
        } else if sample.source.contains("mmc4") {
            assert_eq!(images, 2);
            assert_eq!(loss.len(), texts.len() - 1 - images, "{texts:?}");
        } else {
            assert!(!loss.contains(&"<image>") && loss.contains(&"</s>"));
        }
    }
    assert!(samples.iter().any(|sample| sample.pictures.is_empty()));
    assert!(!folder.path().join("run").exists());
}
