use std::{collections::HashMap, fs, io::Write, num::NonZeroU32, ops::ControlFlow, path::Path};

use super::{manifest::Manifest, *};
use crate::{
    Error, GenerateOptions, Pipeline, Result, checkpoint::WeightDtype, engine::VisualKind,
    evaluation::record::Identity,
};

fn read(layout: Layout, name: &str, content: &str, samples: Option<usize>) -> Result<Vec<Prompt>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    layout.prompts(&path, layout.kind(false).unwrap(), samples)
}

fn files(prompts: &[Prompt]) -> Vec<&str> {
    let files = prompts.iter().flat_map(|prompt| &prompt.files);
    files.map(String::as_str).collect()
}

#[test]
fn geneval_has_a_folder_for_each_line() {
    let lines = [
        r#"{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}"#,
        r#"{"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a photo of a red cow"}"#,
    ];
    let text = format!("\u{feff}{}\r\n\n{}\n", lines[0], lines[1]);
    let prompts = read(Layout::GenEval, "evaluation_metadata.jsonl", &text, None).unwrap();
    assert_eq!(prompts[1].text, "a photo of a red cow");
    assert_eq!(prompts[0].files.len(), 4);
    assert_eq!(prompts[1].files[3], "00001/samples/0003.png");
    let sidecar = ("00001/metadata.jsonl".into(), format!("{}\n", lines[1]));
    assert_eq!(prompts[1].sidecar, Some(sidecar));
    let two = read(Layout::GenEval, "x", &text, Some(2)).unwrap();
    assert_eq!(two[0].files.len(), 2);
    let error = read(Layout::GenEval, "x", &format!("{}\n{{}}", lines[0]), None).unwrap_err();
    assert!(
        error.to_string().contains("line 2: missing field `prompt`"),
        "{error}"
    );
}

#[test]
fn genai_bench_and_mjhq_have_a_file_for_each_key() {
    let text = r#"{"00000": {"id": "00000", "prompt": "a dog", "models": {"SDXL_Base": [1, 2, 3]}},
        "00527": {"id": "00527", "prompt": "two cats"}}"#;
    let prompts = read(Layout::GenAiBench, "genai_image.json", text, None).unwrap();
    assert_eq!(files(&prompts), ["00000.jpeg", "00527.jpeg"]);
    assert_eq!(
        (prompts[1].index, prompts[1].text.as_str()),
        (1, "two cats")
    );
    let text = r#"{"9f1e": {"category": "animals", "prompt": "a dog"}, "00ab": {"category": "logo", "prompt": "x"}}"#;
    let prompts = read(Layout::Mjhq30k, "meta_data.json", text, None).unwrap();
    assert_eq!(files(&prompts), ["animals/9f1e.png", "logo/00ab.png"]);
    let prompts = read(Layout::Mjhq30k, "meta_data.json", text, Some(2)).unwrap();
    assert_eq!(prompts[0].files, ["animals/9f1e.png", "animals/9f1e-1.png"]);
}

#[test]
fn vbench_has_more_videos_where_some_are_filtered_out() {
    let text = r#"[{"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
        {"prompt_en": "a bird and a cat", "dimension": ["multiple_objects"], "auxiliary_info": {}},
        {"prompt_en": "a bird and a cat", "dimension": ["color"]}]"#;
    let prompts = read(Layout::VBench, "VBench_full_info.json", text, None).unwrap();
    assert_eq!(prompts.len(), 2);
    assert_eq!(prompts[0].files.len(), 25);
    assert_eq!(
        prompts[0].files[24],
        "videos/In a still frame, a stop sign-24.mp4"
    );
    assert_eq!(prompts[1].files.len(), 5);
    for (name, samples) in [("temporal_flickering.txt", 25), ("color.txt", 5)] {
        let prompts = read(Layout::VBench, name, "a red bird\n", None).unwrap();
        assert_eq!(prompts[0].files.len(), samples, "{name}");
    }
    let error = read(Layout::VBench, "x.txt", "a/b\n", None).unwrap_err();
    assert!(error.to_string().contains("cannot be the name"), "{error}");
}

#[test]
fn tables_and_lines_are_numbered() {
    let text = "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\t\n\
        \"G I G G L E\" painted on a wall\tIllustrations\tWriting & Symbols\t\n\
        \"STOP\"\tArtifacts\tComplex\tx\n";
    let prompts = read(Layout::Parti, "PartiPrompts.tsv", text, None).unwrap();
    let texts: Vec<&str> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
    assert_eq!(
        texts,
        ["bond", "\"G I G G L E\" painted on a wall", "\"STOP\""]
    );
    assert_eq!(files(&prompts), ["00000.png", "00001.png", "00002.png"]);
    assert!(read(Layout::Parti, "x", "a\tb\nc\td\n", None).is_err());
    let flat = read(Layout::Flat, "x", "a dog\n\n  a cat  \n", Some(2)).unwrap();
    assert_eq!(
        files(&flat),
        ["00000.png", "00000-1.png", "00001.png", "00001-1.png"]
    );
    assert_eq!(flat[1].text, "a cat");
}

#[test]
fn a_wrong_file_is_named_with_what_is_wrong() {
    for (layout, content, word) in [
        (Layout::Flat, "", "empty"),
        (Layout::Flat, " \n\n", "no prompts"),
        (Layout::GenEval, "<!DOCTYPE html>", "web page"),
        (
            Layout::GenEval,
            "version https://git-lfs.github.com/spec/v1\n",
            "git lfs",
        ),
        (Layout::GenAiBench, "[1]", "invalid type"),
        (
            Layout::GenAiBench,
            r#"{"0": {"text": "x"}}"#,
            "0: missing field `prompt`",
        ),
        (
            Layout::GenAiBench,
            r#"{"../0": {"prompt": "x"}}"#,
            "cannot be the name",
        ),
        (
            Layout::GenAiBench,
            r#"{"/0": {"prompt": "x"}}"#,
            "cannot be the name",
        ),
        (
            Layout::Mjhq30k,
            r#"{"0": {"prompt": "x", "category": ".."}}"#,
            "cannot be the name",
        ),
        (Layout::Mjhq30k, r#"{"0": {"prompt": "x", "cat"#, "EOF"),
        (Layout::VBench, r#"[{"prompt": "x"}]"#, "prompt_en"),
    ] {
        let error = read(layout, "prompts.txt", content, None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("prompts.txt") && error.contains(word),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin1.txt");
    fs::write(&path, b"caf\xe9\n").unwrap();
    for path in [path.as_path(), folder.path(), &folder.path().join("none")] {
        assert!(Layout::Flat.prompts(path, VisualKind::Image, None).is_err());
    }
    assert!(Layout::GenEval.kind(true).is_err());
    assert_eq!(Layout::VBench.kind(false).unwrap(), VisualKind::Video);
}

fn settings(shard: Shard) -> Settings {
    let options = GenerateOptions {
        seed: Some(7),
        guidance: Some(2.0),
        ..GenerateOptions::default()
    };
    Settings {
        kind: VisualKind::Image,
        rate: NonZeroU32::MIN,
        options,
        shard,
        model: Identity {
            name: "nano".into(),
            sha256: "0".repeat(64),
            n: None,
        },
        dtype: WeightDtype::F32,
    }
}

fn entries(folder: &Path) -> HashMap<String, Entry> {
    // Each has its own lines.
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().path());
    let manifests = names.filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    let mut all = HashMap::new();
    for manifest in manifests {
        for line in fs::read_to_string(manifest).unwrap().lines() {
            let entry: Entry = serde_json::from_str(line).unwrap();
            let before = all.insert(entry.file.clone(), entry);
            assert_eq!(before, None, "generated twice");
        }
    }
    all
}

#[test]
fn parts_and_pieces_are_the_whole() {
    let pipeline = Pipeline::from_pretrained("nano").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let prompts: String = (0..9)
        .map(|n| format!("a red heart number {n} on blue\n"))
        .collect();
    fs::write(at("prompts.txt"), prompts).unwrap();
    let prompts = Layout::Flat
        .prompts(&at("prompts.txt"), VisualKind::Image, Some(2))
        .unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let whole = settings(Shard::WHOLE);
    let outcome = run(&pipeline, &prompts, &at("whole"), &whole, go_on).unwrap();
    assert_eq!((outcome.generated, outcome.present), (18, 0));
    let expected = entries(&at("whole"));
    assert_eq!(expected.len(), 18);
    let seeds: std::collections::HashSet<u64> =
        expected.values().map(|one| one.settings.seed).collect();
    assert_eq!(seeds.len(), 18);

    // Stopped after the first file, with one line half-written and a file without its line.
    let outcome = run(&pipeline, &prompts, &at("parts"), &whole, &mut |progress| {
        if progress.files > 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(outcome, Err(Error::Interrupted)));
    let before = entries(&at("parts")).len();
    assert!((1..18).contains(&before), "{before}");
    let manifest = at("parts/manifest.jsonl");
    let mut half = fs::OpenOptions::new().append(true).open(&manifest).unwrap();
    half.write_all(br#"{"file":"00008-1.png","pro"#).unwrap();
    drop(half);
    fs::write(at("parts/.vila-u-half"), "x").unwrap();
    let lost = entries_of_first(&manifest);
    fs::remove_file(at("parts").join(&lost)).unwrap();
    let outcome = run(&pipeline, &prompts, &at("parts"), &whole, go_on).unwrap();
    assert_eq!(
        (outcome.generated, outcome.present),
        (19 - before, before - 1)
    );
    assert!(!at("parts/.vila-u-half").exists());
    let text = fs::read_to_string(&manifest).unwrap();
    assert_eq!(text.lines().count(), 19);
    let (_, again) = Manifest::open(&at("parts"), Shard::WHOLE).unwrap();
    assert_eq!(again, expected);

    // Two machines, one folder.
    for shard in ["2/2", "1/2"] {
        let outcome = run(
            &pipeline,
            &prompts,
            &at("shards"),
            &settings(Shard::parse(shard).unwrap()),
            go_on,
        );
        assert_eq!(outcome.unwrap().present, 0);
    }
    assert_eq!(entries(&at("shards")), expected);
    let outcome = run(&pipeline, &prompts, &at("shards"), &whole, go_on).unwrap();
    assert_eq!((outcome.generated, outcome.present), (0, 18));
    let (_open, _) = Manifest::open(&at("shards"), Shard::parse("1/2").unwrap()).unwrap();
    let error = run(&pipeline, &prompts, &at("shards"), &whole, go_on).unwrap_err();
    assert!(error.to_string().contains("another run"), "{error}");

    // A file is what its settings give alone, and other settings are not mixed with it.
    let entry = &expected["00003-1.png"];
    let mut alone = whole.options.clone();
    alone.seed = Some(entry.settings.seed);
    let image = pipeline
        .generate_images(&entry.settings.prompt, 1, &alone)
        .unwrap()
        .remove(0);
    let file = image::open(at("whole/00003-1.png")).unwrap().into_rgb8();
    assert!(image == file);
    let mut other = whole.clone();
    other.options.guidance = Some(3.0);
    let error = run(&pipeline, &prompts, &at("whole"), &other, go_on).unwrap_err();
    assert!(matches!(error, Error::Usage(_)));
    assert!(error.to_string().contains("cfg 2.0, not 3.0"), "{error}");
}

fn entries_of_first(manifest: &Path) -> String {
    let text = fs::read_to_string(manifest).unwrap();
    let entry: Entry = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    entry.file
}

#[test]
fn a_prompt_that_cannot_be_read_costs_its_own_files() {
    let pipeline = Pipeline::from_pretrained("nano").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.txt");
    let long = "a very red heart ".repeat(1000);
    fs::write(&path, format!("a dog\n{long}\na <image>\n")).unwrap();
    let prompts = Layout::Flat
        .prompts(&path, VisualKind::Image, None)
        .unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let outcome = run(
        &pipeline,
        &prompts,
        folder.path(),
        &settings(Shard::WHOLE),
        go_on,
    )
    .unwrap();
    assert_eq!((outcome.generated, outcome.skipped.len()), (1, 2));
    let mut skipped: Vec<&str> = outcome
        .skipped
        .iter()
        .map(|one| one.file.as_str())
        .collect();
    skipped.sort_unstable();
    assert_eq!(skipped, ["00001.png", "00002.png"]);
    let mut wrong = settings(Shard::WHOLE);
    wrong.options.top_p = Some(2.0);
    assert!(
        run(
            &pipeline,
            &prompts,
            &folder.path().join("new"),
            &wrong,
            go_on
        )
        .is_err()
    );
    assert!(!folder.path().join("new").exists());
}

#[test]
fn a_damaged_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("manifest.jsonl"), "{}\n").unwrap();
    let error = Manifest::open(folder.path(), Shard::WHOLE)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("line 1") && error.contains("remove the line"),
        "{error}"
    );
}
