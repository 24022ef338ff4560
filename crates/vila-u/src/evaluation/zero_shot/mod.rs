//! Zero-shot classification of labelled pictures (paper, Table 1): top-1 and top-5 accuracy of the tower's quantized
//! features, of the same before they are quantized, and of the first 1 to D codes of each position.
//!
//! `classifier.rs` has the definition, which is open_clip's; `prompts.rs` reads what pictures are classified by.

mod classifier;
mod memory;
mod prompts;
mod tally;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Instant,
};

use burn::tensor::{Tensor, TensorData};
use serde_json::json;
use sha2::{Digest, Sha256};

pub use classifier::{Classifier, PictureEmbeds, best, rank};
use memory::AtOnce;
pub use prompts::{ClassNames, Labels, Templates};
use tally::Tally;

use super::{
    ImageId, ImageSet,
    record::{EvaluationRecord, Identity, hex},
    sample_log::{Sample, SampleLog},
};
use crate::{
    Error, Result,
    checkpoint::{Tower, WeightDtype},
    device::read_floats,
    media::{
        Picture,
        preprocess::{ResizeMode, pixels},
    },
    memory::free,
};

/// How a picture becomes what the tower sees: as open_clip's SigLIP models have it (`resize_mode: squash`), where a picture
/// is resized before it becomes RGB.
pub const RESIZE: ResizeMode = ResizeMode::StretchNative;

/// What is measured, and on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the record calls the model.
    pub model: String,
    /// How its weights were loaded.
    pub dtype: WeightDtype,
    /// As [`ImageSet::open`] takes it.
    pub data: String,
    /// See [`ClassNames::read`].
    pub classes: PathBuf,
    /// See [`Templates::read`].
    pub templates: PathBuf,
    /// The folder for `result.json` and `samples.jsonl`.
    pub output: PathBuf,
}

/// Gets what is under way, how much of it is done, and of how much, where that is known; `false` stops the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, usize, Option<usize>) -> bool;

/// Classifies the pictures and writes the record. A run that was stopped goes on behind the last picture in
/// `samples.jsonl`, if model, data and definitions are the same.
///
/// # Errors
/// A usage error for classes and pictures that do not belong together, [`Error::Interrupted`] when `on_progress` stops
/// it; files that cannot be read or written; a model whose scores are not numbers.
pub fn run(tower: &Tower, options: &Options, on_progress: OnProgress) -> Result<EvaluationRecord> {
    let started = Instant::now();
    let names = ClassNames::read(&options.classes)?;
    let templates = Templates::read(&options.templates)?;
    let images = ImageSet::open(&options.data)?;
    let labels = names.labels(&images.folders())?;
    let mut record = begun(tower, options, &names, &templates)?;
    let (log, done) = open_log(&record, &options.output)?;
    let mut tally = Tally::new(tower.model.quantizer.depth(), names.names().len());
    done.iter().try_for_each(|sample| tally.count(sample))?;
    let done: HashSet<String> = done.into_iter().map(|sample| sample.id).collect();

    let device = tower.model.post_quant_conv.weight.device();
    let at_once = AtOnce::new(&tower.siglip, tower.model.quantizer.depth(), free(&device));
    let classifier = Classifier::new(
        &tower.model.siglip_model,
        &tower.text_tokenizer()?,
        names.names(),
        &templates,
        at_once.texts,
        |done, of| on_progress("reading the classes", done, Some(of)),
    )?;
    let total = images.count();
    let mut seen = 0;
    let mut evaluation = Evaluation {
        tower,
        names: names.names(),
        labels,
        classifier,
        tally,
        log,
    };
    let size = evaluation.size() as u32;
    let prepare = |image: &ImageId, picture: Picture| {
        let fresh = !done.contains(&image.id);
        Ok(fresh.then(|| pixels(&picture, size, RESIZE)))
    };
    let threads = rayon::current_num_threads();
    let summary = images.for_each_batch(at_once.pictures, threads, prepare, |batch| {
        seen += batch.len();
        let fresh = batch.into_iter();
        let fresh = fresh.filter_map(|(image, pixels)| Some((image, pixels?)));
        evaluation.add(fresh.collect())?;
        if on_progress("classifying", seen, total) {
            Ok(())
        } else {
            Err(Error::Interrupted)
        }
    })?;
    record.data.insert(0, summary.identity);
    record.skipped = summary.skipped;
    record.metrics = evaluation.tally.metrics()?;
    record.seconds = started.elapsed().as_secs_f64();
    record.write(&options.output)?;
    Ok(record)
}

struct Evaluation<'a> {
    tower: &'a Tower,
    names: &'a [String],
    labels: Labels,
    classifier: Classifier,
    tally: Tally,
    log: SampleLog,
}

impl Evaluation<'_> {
    /// Width and height of the pictures that the tower reads.
    fn size(&self) -> usize {
        self.tower.siglip.vision_config.image_size
    }

    /// Classifies pictures, each with its pixels `[3, size, size]`.
    fn add(&mut self, pictures: Vec<(ImageId, Vec<f32>)>) -> Result<()> {
        if pictures.is_empty() {
            return Ok(());
        }
        let (images, pixels): (Vec<ImageId>, Vec<Vec<f32>>) = pictures.into_iter().unzip();
        let shape = [images.len(), 3, self.size(), self.size()];
        let device = self.tower.model.post_quant_conv.weight.device();
        let pixels = Tensor::from_data(TensorData::new(pixels.concat(), shape), &device);
        let embeds = PictureEmbeds::new(&self.tower.model, pixels);
        let scores = Scores::new(&self.classifier, embeds)?;
        for (at, image) in images.iter().enumerate() {
            let class = self.labels.number(&image.id, image.class.as_ref())?;
            let scores = scores.of(at);
            let mut sample = self.tally.sample(image, &scores, class)?;
            for (what, class) in [("class", class), ("predicted", best(scores[0]))] {
                let name = json!(self.names[class]);
                sample.values.insert(what.into(), name);
            }
            self.log.append(&sample)?;
            self.tally.count(&sample)?;
        }
        Ok(())
    }
}

/// The record of a run that has measured nothing yet.
fn begun(
    tower: &Tower,
    options: &Options,
    names: &ClassNames,
    templates: &Templates,
) -> Result<EvaluationRecord> {
    let size = tower.siglip.vision_config.image_size;
    let depth = tower.model.quantizer.depth();
    let mut record = EvaluationRecord::new("zero-shot");
    record.model = Some(Identity::of_model(&options.model, &tower.files)?);
    record.data = vec![
        file(&options.classes, names.names().len())?,
        file(&options.templates, templates.len())?,
    ];
    record
        .set("data", options.data.as_str())
        .set("dtype", options.dtype.name());
    let mut define = |name: &str, what: String| record.definitions.insert(name.into(), what);
    define(
        "picture",
        format!(
            "stretched to {size} x {size} by Pillow's bicubic filter, made RGB without transparency, scaled to -1..1 \
             (open_clip's image_transform with resize_mode squash)"
        ),
    );
    define(
        "class",
        "mean over the templates of the L2-normalised text embeddings, L2-normalised \
         (open_clip's build_zero_shot_classifier)"
            .into(),
    );
    define(
        "top-1",
        format!(
            "share of the pictures whose own class has the highest cosine with the picture's embedding from all {depth} \
             codes of each position; of equal ones the first class"
        ),
    );
    define(
        "top-5",
        "the same, whose own class has one of the five highest".into(),
    );
    define("/depth-d", "from the first d codes of each position".into());
    define(
        "/unquantized",
        "from the features before they are quantized, as in plain SigLIP".into(),
    );
    Ok(record)
}

/// A file of so many lines, by its content.
fn file(path: &Path, n: usize) -> Result<Identity> {
    let content = std::fs::read(path).map_err(Error::io(path))?;
    Ok(Identity {
        name: path.display().to_string(),
        sha256: hex(Sha256::new_with_prefix(content)),
        n: Some(n),
    })
}

/// The log of the folder. What is in it counts if it is of a run like this one that did not come to its end.
fn open_log(record: &EvaluationRecord, folder: &Path) -> Result<(SampleLog, Vec<Sample>)> {
    let before = EvaluationRecord::read(folder).ok();
    let goes_on = before.is_some_and(|before| {
        before.metrics.is_empty()
            && before.evaluation == record.evaluation
            && before.model == record.model
            && before.data == record.data
            && before.settings == record.settings
            && before.definitions == record.definitions
    });
    let opened = if goes_on {
        SampleLog::resume(folder)?
    } else {
        (SampleLog::create(folder)?, Vec::new())
    };
    record.write(folder)?;
    Ok(opened)
}

/// The cosines of some pictures with all classes, for each kind of features in the order of [`Tally`].
struct Scores {
    classes: usize,
    by_features: Vec<Vec<f32>>,
}

impl Scores {
    fn new(classifier: &Classifier, mut embeds: PictureEmbeds) -> Result<Self> {
        embeds.by_depth.rotate_right(1);
        let all = embeds.by_depth.into_iter().chain([embeds.unquantized]);
        let scores = all.map(|embeds| read_floats(classifier.cosines(embeds)));
        Ok(Self {
            classes: classifier.classes(),
            by_features: scores.collect::<Result<_>>()?,
        })
    }

    /// Those of one picture.
    fn of(&self, at: usize) -> Vec<&[f32]> {
        let all = self.by_features.iter();
        all.map(|scores| &scores[at * self.classes..][..self.classes])
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
