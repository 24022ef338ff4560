//! The embedded model classifies scenes of the nano world by their captions, in every layout that they come in.

use std::fs;

use burn::tensor::Device;
use tempfile::TempDir;

use super::*;
use crate::{
    Pipeline,
    checkpoint::{Source, WeightDtype, load_tower},
    data::{
        formats::tests::{labelled, tar},
        nano::{Scene, Split},
    },
};

const SCENES: usize = 8;

/// A folder with the classes and templates, and the files of the pictures by class.
struct World {
    folder: TempDir,
    captions: Vec<String>,
    pictures: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut captions, mut pictures) = (Vec::new(), Vec::new());
        for scene in (0..).map(|index| Scene::sample(Split::Test, 0, index)) {
            if captions.len() == SCENES {
                break;
            }
            if !captions.contains(&scene.caption()) {
                captions.push(scene.caption());
                let mut bytes = std::io::Cursor::new(Vec::new());
                let picture = scene.render(64);
                picture
                    .write_to(&mut bytes, image::ImageFormat::Png)
                    .unwrap();
                pictures.push(bytes.into_inner());
            }
        }
        let world = Self {
            folder,
            captions,
            pictures,
        };
        world.write("classes.txt", world.captions.join("\n").as_bytes());
        world.write("templates.txt", b"{}\na picture of {c}.");
        world
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// In folders, which sort in the order of the classes.
    fn folders(&self) {
        for (class, picture) in self.pictures.iter().enumerate() {
            self.write(&format!("val/n{class:02}/{class}.png"), picture);
        }
    }

    fn options(&self, data: &str, output: &str) -> Options {
        let at = |name: &str| self.folder.path().join(name);
        Options {
            model: "nano".into(),
            dtype: WeightDtype::F32,
            data: at(data).display().to_string(),
            classes: at("classes.txt"),
            templates: at("templates.txt"),
            output: at(output),
        }
    }
}

fn tower() -> Tower {
    let files = Source::parse("nano").unwrap().files(|_, _| {}).unwrap();
    load_tower(&files, &Device::flex(), WeightDtype::F32).unwrap()
}

fn measure(tower: &Tower, options: &Options) -> Result<EvaluationRecord> {
    run(tower, options, &mut |_, done, total| {
        total.is_none_or(|total| done <= total)
    })
}

#[test]
fn every_layout_gives_the_same() {
    let world = World::new();
    world.folders();
    let numbers = 0..SCENES;
    let names: Vec<_> = numbers
        .map(|class| {
            (
                format!("{class}.cls"),
                class.to_string(),
                format!("{class}.png"),
            )
        })
        .collect();
    let files = names.iter().zip(&world.pictures);
    let files: Vec<(&str, &[u8])> = files
        .flat_map(|((cls, class, png), picture)| {
            [
                (cls.as_str(), class.as_bytes()),
                (png.as_str(), picture.as_slice()),
            ]
        })
        .collect();
    world.write("shard.tar", &tar(&files));
    let rows: Vec<_> = world.pictures.iter().cloned().zip(0..).collect();
    world.write("table.parquet", &labelled(&rows));

    let tower = tower();
    let records = ["val", "shard.tar", "table.parquet"].map(|data| {
        let output = format!("results/{data}");
        measure(&tower, &world.options(data, &output)).unwrap()
    });
    for record in &records {
        assert_eq!(record.metrics, records[0].metrics);
        assert_eq!(record.data[0].n, Some(SCENES));
    }
    let top1 = records[0].metric("top-1").unwrap();
    assert!(top1.value >= 0.75 && top1.n == SCENES, "{}", records[0]);
    // 8 classes have five best ones, 4 depths three that are fewer.
    assert_eq!(records[0].metrics.len(), 2 * (1 + 3 + 1));
    assert_ne!(records[0].data[0].sha256, records[1].data[0].sha256);
}

#[test]
fn one_template_classifies_as_the_pipeline_does() {
    let world = World::new();
    world.folders();
    world.write("templates.txt", b"{}");
    let options = world.options("val", "result");
    let record = measure(&tower(), &options).unwrap();
    let written = EvaluationRecord::read(&options.output).unwrap();
    assert_eq!(
        (&written.model, &written.data),
        (&record.model, &record.data)
    );
    let pipeline = Pipeline::builder("nano").vision_only().build().unwrap();
    let classifier = pipeline.zero_shot_classifier(&world.captions).unwrap();
    let samples = SampleLog::read(&options.output).unwrap();
    assert_eq!(samples.len(), SCENES);
    for (class, (sample, picture)) in samples.iter().zip(&world.pictures).enumerate() {
        let probabilities = classifier.classify(crate::media::decode(picture).unwrap());
        let expected = best(&probabilities.unwrap());
        assert_eq!(sample.id, format!("n{class:02}/{class}.png"));
        assert_eq!(sample.values["class"], world.captions[class]);
        assert_eq!(sample.values["predicted"], world.captions[expected]);
        assert_eq!(sample.values["top-1"], class == expected);
    }
}

#[test]
fn a_stopped_run_goes_on() {
    let world = World::new();
    world.folders();
    let tower = tower();
    let whole = measure(&tower, &world.options("val", "whole")).unwrap();
    let options = world.options("val", "stopped");
    let stopped = run(&tower, &options, &mut |what, _, _| what != "classifying");
    assert!(matches!(stopped, Err(Error::Interrupted)));
    // As if it had been killed earlier, in the middle of a line.
    let log = options.output.join("samples.jsonl");
    let lines = fs::read_to_string(&log).unwrap();
    let third = lines.match_indices('\n').nth(2).unwrap().0;
    fs::write(&log, &lines[..third + 20]).unwrap();
    let resumed = measure(&tower, &options).unwrap();
    assert_eq!(
        (&resumed.metrics, &resumed.data),
        (&whole.metrics, &whole.data)
    );
    assert_eq!(fs::read_to_string(&log).unwrap(), lines);
    // Other templates are another run.
    fs::write(&log, &lines[..third + 1]).unwrap();
    let mut unfinished = resumed;
    unfinished.metrics.clear();
    unfinished.write(&options.output).unwrap();
    world.write("templates.txt", b"a {}");
    let other = measure(&tower, &options).unwrap();
    assert_eq!(other.metrics[0].n, SCENES);
    assert_eq!(SampleLog::read(&options.output).unwrap().len(), SCENES);
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let world = World::new();
    world.folders();
    let tower = tower();
    let refused = |reason: &str| {
        let options = world.options("val", "result");
        let error = measure(&tower, &options).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    };
    // One corrupt picture costs itself.
    world.write("val/n00/bad.png", b"\x89PNG, or so");
    let record = measure(&tower, &world.options("val", "result")).unwrap();
    assert_eq!(
        (record.metrics[0].n, record.skipped.values().sum()),
        (SCENES, 1)
    );
    world.write("classes.txt", b"a heart\na dog");
    refused("8 folders and there are 2 class names");
    world.write("classes.txt", b"n00: a heart\nn01: a dog");
    refused("n02");
    world.write("val/loose.png", &world.pictures[0]);
    world.write("classes.txt", world.captions.join("\n").as_bytes());
    refused("loose.png has no class");
}
