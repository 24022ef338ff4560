//! `eval fid`: the distance of two sets of pictures, of each category too if that is wanted (MJHQ-30K; paper, table 4).

use std::{collections::BTreeMap, path::Path, thread};

use crate::{
    Error, Result,
    evaluation::{
        Class, ImageId, ImageSet, ImageSetSummary,
        fid::{Extractor, FeatureStatistics, Gaussian, PictureStatistics},
        inception::FeatureLayer,
        record::{EvaluationRecord, Identity, Metric},
    },
    media::Picture,
};

/// Categories of a set at most: each takes a covariance.
const MOST_CATEGORIES: usize = 64;

/// One of the two sides.
#[derive(Debug)]
pub enum Side {
    Pictures(ImageSet),
    /// A file of statistics, with its SHA-256.
    Statistics(Gaussian, Identity),
}

/// Where a picture's category comes from.
#[derive(Debug)]
pub enum Categories {
    /// The folder it lies in, or the class that its shard or table says.
    Class,
    /// For each file name without ending.
    OfKey(BTreeMap<String, String>),
}

/// What is measured, and how.
#[derive(Debug)]
pub struct Options {
    /// Needed for pictures.
    pub extractor: Option<Extractor>,
    pub categories: Option<Categories>,
    /// Pictures that go through the network together.
    pub batch: usize,
}

impl Side {
    /// Statistics (`.npz`) or pictures, as [`ImageSet::open`] takes them.
    pub fn open(path: &str) -> Result<Self> {
        if path.ends_with(".npz") {
            let file = Path::new(path);
            Ok(Self::Statistics(
                Gaussian::read(file)?,
                Identity::of_file(file)?,
            ))
        } else {
            ImageSet::open(path).map(Self::Pictures)
        }
    }
}

impl Categories {
    /// From MJHQ-30K's `meta_data.json`: `{KEY: {"category": NAME, ..}, ..}`.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Entry {
            category: String,
        }
        let text = std::fs::read(path).map_err(Error::io(path))?;
        let entries: BTreeMap<String, Entry> = serde_json::from_slice(&text).map_err(|error| {
            Error::invalid(
                path,
                format!("not {{\"KEY\": {{\"category\": \"NAME\"}}, ..}} as in MJHQ-30K's meta_data.json: {error}"),
            )
        })?;
        let entries = entries
            .into_iter()
            .map(|(key, entry)| (key, entry.category));
        Ok(Self::OfKey(entries.collect()))
    }

    fn of(&self, image: &ImageId) -> Result<String> {
        let name = match self {
            Self::Class => image.class.as_ref().map(|class| match class {
                Class::Name(name) => name.clone(),
                Class::Index(index) => index.to_string(),
            }),
            Self::OfKey(categories) => {
                let name = image.id.rsplit('/').next().unwrap_or(&image.id);
                let key = name.split('.').next().unwrap_or(name);
                categories.get(key).cloned()
            }
        };
        name.ok_or_else(|| Error::failed("in no category"))
    }
}

/// Measures how far the two sides are apart.
///
/// The statistics of pictures are written into `output`, which is made if need be, as `first.npz` and `second.npz`.
/// `on_progress` is told which side is read, how many of its pictures are done and how many there are, where that is known,
/// and says whether to go on.
///
/// # Errors
/// Usage errors where pictures are given without a network, statistics with categories or those of two different layers;
/// otherwise when no picture can be decoded, a file cannot be written, or `on_progress` says no.
pub fn run(
    first: Side,
    second: Side,
    options: &Options,
    output: &Path,
    on_progress: &mut dyn FnMut(&str, usize, Option<usize>) -> bool,
) -> Result<EvaluationRecord> {
    let extractor = extractor(&first, &second, options)?;
    std::fs::create_dir_all(output).map_err(Error::io(output))?;
    let mut record = EvaluationRecord::new("fid");
    let mut measure = |side, name: &str| {
        let (measured, identity) = match (side, &extractor) {
            (Side::Pictures(set), Some(extractor)) => {
                let mut progress = |done, total| on_progress(name, done, total);
                let (set, summary) = measure(set, extractor, options, &mut progress)?;
                for (layer, gaussian) in &set.whole {
                    let file = format!("{}.npz", metric_name(name, layer));
                    gaussian.write(&output.join(file))?;
                }
                for (reason, n) in summary.skipped {
                    *record.skipped.entry(reason).or_insert(0) += n;
                }
                (set, summary.identity)
            }
            (Side::Statistics(gaussian, identity), extractor) => {
                let layer = extractor
                    .as_ref()
                    .map(|extractor| extractor.layers[0].name().to_string());
                let layer = layer.unwrap_or_else(|| gaussian.channels().to_string());
                let whole = vec![(layer, gaussian)];
                (
                    Measured {
                        n: 0,
                        whole,
                        categories: BTreeMap::new(),
                    },
                    identity,
                )
            }
            (Side::Pictures(_), None) => return Err(Error::usage("pictures need a network")),
        };
        record.data.push(identity);
        Ok(measured)
    };
    let (first, second) = (measure(first, "first")?, measure(second, "second")?);
    // What is not known of statistics, their number of pictures, the other side may have.
    let n = [first.n, second.n]
        .into_iter()
        .filter(|n| *n > 0)
        .min()
        .unwrap_or(0);
    push_distances(&first.whole, &second.whole, "", n, &mut record)?;
    if !first.categories.keys().eq(second.categories.keys()) {
        let only = |a: &Measured, b: &Measured| {
            let mut names = a
                .categories
                .keys()
                .filter(|name| !b.categories.contains_key(*name));
            names.next().cloned()
        };
        let name = only(&first, &second).or(only(&second, &first));
        return Err(Error::usage(format!(
            "only one side has pictures of the category {:?}",
            name.unwrap_or_default()
        )));
    }
    for ((name, own), other) in first.categories.iter().zip(second.categories.values()) {
        push_distances(
            &own.1,
            &other.1,
            &format!("/{name}"),
            own.0.min(other.0),
            &mut record,
        )?;
    }
    if let Some(extractor) = &extractor {
        let definition = extractor.definition;
        record
            .definitions
            .insert("fid".into(), definition.describe().into());
        record.set("fid", definition.name());
    }
    Ok(record)
}

/// The distances for people, a line each.
pub fn table(record: &EvaluationRecord) -> String {
    let lines = record.metrics.iter().map(|metric| {
        let pictures = match metric.n {
            0 => "of statistics".to_string(),
            n => format!("{n} pictures"),
        };
        format!("{:24} {:10.4}   {pictures}", metric.name, metric.value)
    });
    let mut lines: Vec<String> = lines.collect();
    let skipped: usize = record.skipped.values().sum();
    if skipped > 0 {
        lines.push(format!("{skipped} pictures left out"));
    }
    lines.join("\n")
}

/// What is kept of one side.
struct Measured {
    n: usize,
    whole: Layers,
    /// The number of pictures of each, and the same.
    categories: BTreeMap<String, (usize, Layers)>,
}

/// Statistics by the names of their layers.
type Layers = Vec<(String, Gaussian)>;

/// The network with the layers that both sides have: those of statistics, where there are some. None where nothing needs
/// it.
fn extractor(first: &Side, second: &Side, options: &Options) -> Result<Option<Extractor>> {
    let mut extractor = match (first, second, &options.extractor) {
        (Side::Statistics(..), Side::Statistics(..), _) => None,
        (_, _, Some(extractor)) => Some(extractor.clone()),
        (_, _, None) => {
            return Err(Error::usage(
                "pictures are compared by FID's Inception-v3: give its weights with --inception, or statistics (.npz)",
            ));
        }
    };
    let given = [first, second].into_iter().find_map(|side| match side {
        Side::Pictures(_) => None,
        Side::Statistics(gaussian, _) => Some(gaussian.channels()),
    });
    if let Some(channels) = given {
        if options.categories.is_some() {
            return Err(Error::usage(
                "statistics have no categories: give the pictures of both sides",
            ));
        }
        if let Some(extractor) = &mut extractor {
            let network = &extractor.inception;
            let mut layers = FeatureLayer::ALL.into_iter();
            let layer = layers.find(|layer| network.channels(*layer) == channels);
            let layer = layer.ok_or_else(|| {
                Error::usage(format!(
                    "statistics of {channels} features are of no layer of this network"
                ))
            })?;
            extractor.layers = vec![layer];
        }
    }
    Ok(extractor)
}

/// Reads all pictures of a side.
fn measure(
    set: ImageSet,
    extractor: &Extractor,
    options: &Options,
    on_progress: &mut dyn FnMut(usize, Option<usize>) -> bool,
) -> Result<(Measured, ImageSetSummary)> {
    let (mut done, total) = (0, set.count());
    let mut categories: BTreeMap<String, PictureStatistics> = BTreeMap::new();
    let prepare = |image: &ImageId, picture: Picture| {
        let category = match &options.categories {
            Some(categories) => categories.of(image)?,
            None => String::new(),
        };
        Ok((category, extractor.prepare(&picture.rgb())))
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let summary = set.for_each_batch(options.batch, threads, prepare, |batch| {
        done += batch.len();
        let mut prepared: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
        for (_, (category, pixels)) in batch {
            prepared.entry(category).or_default().push(pixels);
        }
        for (category, prepared) in prepared {
            let statistics = categories.entry(category);
            let statistics = statistics.or_insert_with(|| extractor.statistics());
            extractor.add(&prepared, statistics)?;
        }
        if categories.len() > MOST_CATEGORIES {
            return Err(Error::usage(format!(
                "more than {MOST_CATEGORIES} categories, each with a covariance: leave --categories out"
            )));
        }
        if on_progress(done, total) { Ok(()) } else { Err(Error::Interrupted) }
    })?;
    let mut whole: Vec<(String, FeatureStatistics)> = Vec::new();
    for statistics in categories.values() {
        for (at, (layer, statistics)) in statistics.layers.iter().enumerate() {
            match whole.get_mut(at) {
                Some((_, all)) => all.merge(statistics),
                None => whole.push((layer.name().into(), statistics.clone())),
            }
        }
    }
    if whole.is_empty() {
        let reason = summary.skipped.keys().next();
        let reason = reason.map_or("there are none", String::as_str);
        let reason = format!("none of the pictures can be used: {reason}");
        return Err(Error::invalid(&summary.identity.name, reason));
    }
    let whole = whole
        .into_iter()
        .map(|(layer, all)| Ok((layer, all.gaussian()?)));
    let measured = Measured {
        n: done,
        whole: whole.collect::<Result<_>>()?,
        categories: if options.categories.is_some() {
            of_each(categories)?
        } else {
            BTreeMap::new()
        },
    };
    Ok((measured, summary))
}

fn of_each(
    categories: BTreeMap<String, PictureStatistics>,
) -> Result<BTreeMap<String, (usize, Layers)>> {
    let each = categories.into_iter().map(|(name, statistics)| {
        let n = statistics
            .layers
            .first()
            .map_or(0, |(_, statistics)| statistics.n());
        let layers = statistics.layers.iter().map(|(layer, statistics)| {
            let gaussian = statistics.gaussian();
            let gaussian =
                gaussian.map_err(|error| Error::failed(format!("category {name:?}: {error}")))?;
            Ok((layer.name().to_string(), gaussian))
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok((name, (n, layers)))
    });
    each.collect()
}

fn push_distances(
    first: &Layers,
    second: &Layers,
    category: &str,
    n: usize,
    record: &mut EvaluationRecord,
) -> Result<()> {
    for ((layer, own), (_, other)) in first.iter().zip(second) {
        let name = format!("{}{category}", metric_name("fid", layer));
        record
            .metrics
            .push(Metric::plain(name, own.distance(other)?, n));
    }
    Ok(())
}

/// Of the layer that is meant where nothing is said, the name alone.
fn metric_name(name: &str, layer: &str) -> String {
    if layer == FeatureLayer::L2048.name() {
        name.into()
    } else {
        format!("{name}-{layer}")
    }
}
