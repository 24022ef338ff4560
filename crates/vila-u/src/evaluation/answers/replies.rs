//! The replies to a set of questions, kept in a folder as they come.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Item, OnProgress,
    ask::{Asked, answer_all},
    metric::with_choices,
};
use crate::{
    AskOptions, Error, Pipeline, Result, atomic,
    evaluation::{
        record::{EvaluationRecord, Identity},
        sample_log::{Sample, SampleLog},
    },
};

/// What the replies of a folder depend on.
const ASKED: &str = "asked.json";
const PREDICTION: &str = "prediction";

/// How questions are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asking {
    /// A line after every question; none if empty.
    pub suffix: String,
    pub options: AskOptions,
}

/// What was replied to each item, and what was not.
#[derive(Debug)]
pub struct Replies {
    /// In the order of the items; none where an item was left out.
    pub replies: Vec<Option<String>>,
    /// How many were left out, for each reason.
    pub skipped: BTreeMap<String, usize>,
    /// All that is in the folder.
    kept: Vec<Sample>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    /// SHA-256.
    model: Option<String>,
    data: Vec<String>,
    settings: Map<String, Value>,
}

impl Asking {
    /// What is asked about an item, beside its pictures.
    pub(super) fn prompt(&self, item: &Item) -> String {
        let mut prompt = with_choices(&item.question, &item.choices);
        if !self.suffix.is_empty() {
            prompt.push('\n');
            prompt += &self.suffix;
        }
        prompt
    }

    /// By name, for a record.
    pub fn settings(&self) -> Map<String, Value> {
        let options = &self.options;
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.into(), value);
        set("suffix", json!(self.suffix));
        set("max_tokens", json!(options.max_tokens));
        set("greedy", json!(options.greedy));
        if !options.greedy {
            set("temperature", json!(options.temperature));
            set("top_p", json!(options.top_p));
            set("seed", json!(options.seed));
        }
        settings
    }
}

impl Replies {
    /// Asks the model about every item that has no reply in `folder` yet, and keeps each reply there as soon as it is
    /// known. `on_progress` stops the work by returning `false`; what was replied stays.
    ///
    /// - `record`: of this evaluation, with the model, the data and the settings that replies depend on
    ///
    /// An item whose picture or video cannot be read, or that is longer than the model's context, is left out. A usage
    /// error where the folder has replies of another model, to other questions, or asked in another way; an error when
    /// nothing could be asked; [`Error::Interrupted`] when it is stopped.
    pub fn collect(
        pipeline: &Pipeline,
        items: &[Item],
        asking: &Asking,
        record: &EvaluationRecord,
        folder: &Path,
        on_progress: OnProgress,
    ) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let sha256 = |identity: &Identity| identity.sha256.clone();
        let settings = Settings {
            model: record.model.as_ref().map(sha256),
            data: record.data.iter().map(sha256).collect(),
            settings: record.settings.clone(),
        };
        settings.claim(folder)?;
        let (mut log, mut kept) = SampleLog::resume(folder)?;
        let known: HashMap<_, _> = kept.iter().filter_map(prediction).collect();
        let of = |item: &Item| known.get(&*item.id).map(|reply| reply.to_string());
        let mut replies: Vec<Option<String>> = items.iter().map(of).collect();
        let left = items.iter().enumerate();
        let left = left.filter(|(number, _)| replies[*number].is_none());
        let asked = |(number, item)| Asked {
            number,
            item,
            prompt: asking.prompt(item),
        };
        let left: Vec<Asked> = left.map(asked).collect();
        let (mut skipped, mut first) = (BTreeMap::new(), None);
        let mut done = items.len() - left.len();
        answer_all(pipeline, &left, &asking.options, &mut |ended| {
            for (number, reply) in ended {
                done += 1;
                match reply {
                    Ok(reply) => {
                        let values = Map::from_iter([(PREDICTION.into(), json!(reply))]);
                        let id = items[number].id.clone();
                        let sample = Sample { id, values };
                        log.append(&sample)?;
                        kept.push(sample);
                        replies[number] = Some(reply);
                    }
                    Err(error) => {
                        *skipped.entry(reason(&error)).or_insert(0) += 1;
                        first.get_or_insert(error);
                    }
                }
            }
            if on_progress("answering", done, items.len()) {
                Ok(())
            } else {
                Err(Error::Interrupted)
            }
        })?;
        match first {
            Some(error) if replies.iter().all(Option::is_none) => Err(Error::failed(format!(
                "none of the questions could be asked; of the first: {error}"
            ))),
            _ => Ok(Self {
                replies,
                skipped,
                kept,
            }),
        }
    }

    /// Puts the log in the order of the items, with the numbers of each beside its reply.
    pub(super) fn add(
        mut self,
        items: &[Item],
        numbers: &[Option<Map<String, Value>>],
        folder: &Path,
    ) -> Result<()> {
        let places = items.iter().map(|item| &*item.id).zip(0..);
        let places: HashMap<&str, usize> = places.collect();
        for sample in &mut self.kept {
            let place = places.get(&*sample.id);
            if let Some(place) = place {
                // What an earlier run found may be of another metric.
                sample.values.retain(|name, _| name == PREDICTION);
                sample
                    .values
                    .extend(numbers[*place].clone().unwrap_or_default());
            }
        }
        // Replies to others of the same questions, of a longer run, stay behind.
        let place = |sample: &Sample| places.get(&*sample.id).map_or(usize::MAX, |place| *place);
        self.kept.sort_by_key(place);
        SampleLog::replace(folder, &self.kept)
    }
}

impl Settings {
    /// Takes the folder for these settings. A usage error when it was taken for others.
    fn claim(&self, folder: &Path) -> Result<()> {
        let path = folder.join(ASKED);
        let wrong = |error: serde_json::Error| Error::invalid(&path, error.to_string());
        let before: Self = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(wrong)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = serde_json::to_vec_pretty(self).map_err(wrong)?;
                return atomic::write(&path, &text);
            }
            Err(error) => return Err(Error::io(&path)(error)),
        };
        let what = match () {
            () if before == *self => return Ok(()),
            () if before.model != self.model => "of another model",
            () if before.data != self.data => "to other questions",
            () => "that were asked for with other options",
        };
        Err(Error::usage(format!(
            "{} has replies {what}: give another folder with -o, or remove this one",
            folder.display()
        )))
    }
}

fn prediction(sample: &Sample) -> Option<(&str, &str)> {
    Some((&sample.id, sample.values.get(PREDICTION)?.as_str()?))
}

/// Why an item was left out, the same for many.
fn reason(error: &Error) -> String {
    match error {
        Error::Io { source, .. } => source.to_string(),
        Error::Invalid { reason, .. } => reason.clone(),
        Error::Usage(_) => "the question does not fit the model's context".into(),
        error => error.to_string(),
    }
}
