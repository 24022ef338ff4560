//! What a run takes, from sizes alone: parameters trained and frozen, tokens a step, and memory by what
//! it is for. No weight is read.
//!
//! Weights, gradients and moments are exact. Activations are an estimate (`activations.rs`).

mod activations;

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::Serialize;

use crate::model::VilaUConfig;
use crate::parts::ModelPart;
use crate::sequence::{Sample, SequenceLayout};
use crate::training::data::dataloader::first_samples;
use crate::training::data::dataloader_state::trained;
use crate::training::data::samples::SampleMaker;
use crate::training::losses::lpips;
use crate::training::model::TowerWithDiscriminator;
use crate::training::model::initial::{self, ModelSizes};
use crate::training::objectives::tower;
use crate::training::recipe::{self, Lora, Objective, Recipe};
use crate::training::trainer::microbatch_pool::parallel_batches;
use crate::{Error, Result, memory, parameters};
use activations::BatchShape;

/// Samples that are looked at for their lengths.
const MEASURED: usize = 64;
/// Bytes of a number.
const F32: u64 = 4;

/// Machines that a tower is proposed to be spread over.
const SPREAD: usize = 8;

/// What a run has.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Bytes of the device, where it is not to be asked.
    pub memory: Option<u64>,
    pub ranks: u64,
    /// Of these on this machine.
    pub here: u64,
}

/// All the memory there is, for one rank.
impl Default for Resources {
    fn default() -> Self {
        Self {
            memory: None,
            ranks: 1,
            here: 1,
        }
    }
}

/// What a run takes.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub stages: Vec<StagePlan>,
    /// Bytes that are free where the model will be; none where nobody knows.
    pub free: Option<u64>,
    /// Of the host, where that is another place.
    pub host_free: Option<u64>,
    /// Changes to the recipe that are not made yet, and the bytes of the largest stage with each and
    /// with all up to it.
    pub remedies: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    pub kind: &'static str,
    pub steps: u64,
    pub parts: Vec<PartPlan>,
    pub trained: u64,
    pub frozen: u64,
    /// Trained parameters that weight decay acts on: matrices, convolutions and embeddings. Biases and
    /// norms are the others.
    pub decayed: u64,
    pub weight_decay: f64,
    /// Samples of a step.
    pub samples: u64,
    /// Positions that the model reads in a step: the mean of the samples looked at, or the most there can
    /// be if none was.
    pub tokens: u64,
    /// How many samples were looked at.
    pub measured: usize,
    /// Share of the positions that are padding, of the samples looked at.
    pub padding: Option<f64>,
    /// Where the model is.
    pub memory: MemoryNeed,
    /// Of the host, where that is another place.
    pub host: Option<MemoryNeed>,
}

#[derive(Clone, Debug, Serialize)]
pub struct PartPlan {
    pub name: &'static str,
    pub trained: u64,
    pub frozen: u64,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct MemoryNeed {
    pub weights: u64,
    pub gradients: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    pub activations: u64,
}

impl MemoryNeed {
    fn times(&mut self, count: u64) {
        let Self {
            weights,
            gradients,
            optimizer,
            activations,
        } = self;
        for bytes in [weights, gradients, optimizer, activations] {
            *bytes *= count;
        }
    }

    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.activations
    }
}

impl Plan {
    /// Reads sizes, and of the data as much as it takes to know how long samples are, if it is there.
    ///
    /// # Errors
    /// When the sizes are not known, or do not fit together.
    pub fn measured(recipe: &Recipe, device: &Device, resources: &Resources) -> Result<Self> {
        Self::new(recipe, device, resources, true)
    }

    fn new(recipe: &Recipe, device: &Device, resources: &Resources, look: bool) -> Result<Self> {
        let sizes = initial::sizes(recipe)?;
        let gpu = !crate::device::is_cpu(device);
        let lengths = |stage: &recipe::Stage| {
            if look {
                lengths(recipe, &stage.objective)
            } else {
                Vec::new()
            }
        };
        let lengths: Vec<Vec<Sample>> = recipe.stages.iter().map(lengths).collect();
        let stages = |recipe: &Recipe| -> Vec<StagePlan> {
            let ends = recipe.stage_ends();
            let starts = [0].into_iter().chain(ends.iter().copied());
            let steps = ends.iter().zip(starts).map(|(end, start)| end - start);
            let stages = recipe.stages.iter().zip(steps).zip(&lengths);
            let plan = |((stage, steps), lengths): ((&recipe::Stage, u64), &Vec<Sample>)| {
                plan(recipe, stage, steps, &sizes, lengths, gpu).on(resources)
            };
            stages.map(plan).collect()
        };
        let largest = |stages: &[StagePlan]| {
            let totals = stages.iter().map(|stage| stage.memory.total());
            totals.max().unwrap_or(0)
        };
        let mut remedies = Vec::new();
        let mut changed = recipe.clone();
        for (name, change) in memory_savings(recipe) {
            change(&mut changed);
            remedies.push((name, largest(&stages(&changed))));
        }
        Ok(Self {
            stages: stages(recipe),
            free: resources.memory.or_else(|| memory::free(device)),
            host_free: gpu.then(|| memory::free(&Device::flex())).flatten(),
            remedies,
        })
    }

    /// One error that says what to change, where the run cannot fit.
    ///
    /// # Errors
    /// When it takes more memory than is free.
    pub fn check(&self) -> Result<()> {
        for stage in &self.stages {
            let places = [
                (
                    Some(stage.memory),
                    self.free,
                    "there are",
                    &self.remedies[..],
                ),
                (stage.host, self.host_free, "the host has", &[]),
            ];
            for (memory, free, has, remedies) in places {
                let (Some(memory), Some(free)) = (memory, free) else {
                    continue;
                };
                if memory.total() > free {
                    let remedies: Vec<String> = remedies
                        .iter()
                        .map(|(name, bytes)| format!("{name} ({})", memory::in_words(*bytes)))
                        .collect();
                    let remedies = if remedies.is_empty() {
                        "use a machine with more".to_string()
                    } else {
                        format!("with {}", remedies.join(", then "))
                    };
                    return Err(Error::failed(format!(
                        "this run needs about {} of memory (weights {}, gradients {}, optimizer {}, activations \
                         {}), and {has} {} free: {remedies}",
                        memory::in_words(memory.total()),
                        memory::in_words(memory.weights),
                        memory::in_words(memory.gradients),
                        memory::in_words(memory.optimizer),
                        memory::in_words(memory.activations),
                        memory::in_words(free),
                    )));
                }
            }
        }
        Ok(())
    }
}

impl StagePlan {
    /// Of one rank, on all ranks. Each of them takes as many samples of a step; those on one machine share its
    /// memory, and have GPUs of their own.
    fn on(mut self, resources: &Resources) -> Self {
        self.samples *= resources.ranks;
        self.tokens *= resources.ranks;
        self.host
            .as_mut()
            .unwrap_or(&mut self.memory)
            .times(resources.here);
        self
    }
}

/// Refuses a run that cannot fit, before anything is loaded.
///
/// # Errors
/// As [`Plan::measured`] and [`Plan::check`].
pub fn check(recipe: &Recipe, device: &Device, resources: &Resources) -> Result<()> {
    // What fits even with the longest samples needs no look at the data.
    match Plan::new(recipe, device, resources, false)?.check() {
        Ok(()) => Ok(()),
        Err(_) => Plan::measured(recipe, device, resources)?.check(),
    }
}

/// What takes less memory: what it is called, and what it does.
type MemorySaving = (String, fn(&mut Recipe));

/// Those not yet taken, one after the other.
fn memory_savings(recipe: &Recipe) -> Vec<MemorySaving> {
    let mut remedies: Vec<MemorySaving> = Vec::new();
    let language = !recipe.is_tower();
    if language && !recipe.gradient_checkpointing {
        remedies.push(("gradient_checkpointing = true".into(), |recipe| {
            recipe.gradient_checkpointing = true
        }));
    }
    if language && recipe.batch_size > 1 {
        let samples = recipe.batch_size * recipe.gradient_accumulation_steps;
        remedies.push((
            format!("batch_size = 1 and gradient_accumulation_steps = {samples}"),
            |recipe| {
                recipe.gradient_accumulation_steps *= recipe.batch_size;
                recipe.batch_size = 1;
            },
        ));
    }
    // The pictures of a step are compared with each other: they cannot be fewer, but on several machines.
    if !language && recipe.batch_size >= 2 * SPREAD {
        let each = recipe.batch_size / SPREAD;
        remedies.push((
            format!("batch_size = {each} on {SPREAD} machines"),
            |recipe| recipe.batch_size /= SPREAD,
        ));
    }
    if language && recipe.lora.is_none() && recipe.model.llm.is_none() {
        remedies.push(("lora = { rank = 64, alpha = 16 }".into(), |recipe| {
            recipe.lora = Some(Lora::all_layers(64, 16.0));
        }));
    }
    remedies
}

/// The first samples of a stage; none where they are not at hand.
fn lengths(recipe: &Recipe, objective: &Objective) -> Vec<Sample> {
    let look = || -> Result<Vec<Sample>> {
        let (recipe, _folder) = initial::in_temporary_folder(recipe)?;
        let (config, tokenizer) = initial::vila_u_input_at_hand(&recipe)?;
        let maker =
            SampleMaker::of_stage(&recipe, objective, Arc::new(tokenizer), Arc::new(config))?;
        let sources: Vec<_> = trained(&recipe.data).cloned().collect();
        let count = MEASURED.max(recipe.batch_size.min(512));
        let loaded = first_samples(
            &maker,
            &sources,
            recipe.seed,
            recipe.data.max_skipped,
            count,
        )?;
        Ok(loaded.into_iter().map(|one| one.sample.sample).collect())
    };
    look().unwrap_or_default()
}

/// Parameters by part, and what the optimizer does with them.
#[derive(Default)]
struct Counted {
    /// Trained and frozen, in the order of [`ModelPart::ALL`].
    parts: [[u64; 2]; ModelPart::ALL.len()],
    decayed: u64,
    /// Trained inside the language model's layers.
    layers: u64,
}

impl Counted {
    fn of<M: Module>(model: &M, trains: &dyn Fn(&str) -> bool) -> Self {
        let mut counted = Self::default();
        for parameter in parameters::list(model) {
            let (path, numbers) = (&parameter.path, parameter.count() as u64);
            let trained = trains(path);
            let part = ModelPart::of(path);
            if let Some(part) = ModelPart::ALL.iter().position(|one| part == Some(*one)) {
                counted.parts[part][usize::from(!trained)] += numbers;
            }
            if trained && parameter.shape.len() >= 2 {
                counted.decayed += numbers;
            }
            if trained && path.starts_with("llm.model.layers.") {
                counted.layers += numbers;
            }
        }
        counted
    }

    fn parts(&self) -> Vec<PartPlan> {
        let parts = ModelPart::ALL.into_iter().zip(self.parts);
        let parts = parts.map(|(part, [trained, frozen])| PartPlan {
            name: part.name(),
            trained,
            frozen,
        });
        parts
            .filter(|part| part.trained + part.frozen > 0)
            .collect()
    }
}

fn plan(
    recipe: &Recipe,
    stage: &recipe::Stage,
    steps: u64,
    sizes: &ModelSizes,
    lengths: &[Sample],
    gpu: bool,
) -> StagePlan {
    let cpu = Device::flex();
    let batch = recipe.batch_size as f64;
    let lora = recipe.lora.as_ref();
    let (counted, layers, tokens, padding, kept) = match (sizes, &stage.objective) {
        (ModelSizes::VilaU(config), Objective::Pretrain(objective) | Objective::Sft(objective)) => {
            let mut model = config.init(&cpu);
            if let Some(lora) = lora {
                model.llm = model.llm.adapted(&lora.config(), &cpu);
            }
            let counted = Counted::of(&model, &|path| objective.is_trained(path, lora.is_some()));
            let read = Read::of(config, lengths, recipe.batch_size);
            let kept = activations::language(recipe, &objective.train, config, &read.largest, gpu);
            let layers = config.llm.num_hidden_layers;
            (counted, layers, read.tokens, read.padding, kept)
        }
        (ModelSizes::Tower(sizes), objective) => {
            let (config, siglip) = &**sizes;
            let model = TowerWithDiscriminator {
                tower: config.init(siglip, &cpu),
                discriminator: recipe.discriminator().map(|sizes| sizes.init(&cpu)),
            };
            let no_positions = recipe.model.no_position_embedding;
            let counted = Counted::of(&model, &|path| {
                tower::is_trained(objective, no_positions, path)
            });
            let kept = activations::tower(config, siglip, objective, batch, gpu);
            let [rows, columns, _] = config.code_shape;
            let texts = siglip.text_config.max_position_embeddings;
            (counted, 0, (rows * columns + texts) as f64, None, kept)
        }
        // Stages and sizes are both of the recipe, which does not mix them.
        _ => (Counted::default(), 0, 0.0, None, 0),
    };
    let parts = counted.parts();
    let trained: u64 = parts.iter().map(|part| part.trained).sum();
    let frozen: u64 = parts.iter().map(|part| part.frozen).sum();
    let samples = (recipe.batch_size * recipe.gradient_accumulation_steps) as u64;
    let chance = lora.is_some_and(|lora| lora.dropout > 0.0) || recipe.depth_dropout > 0.0;
    let is_parallel = match &stage.objective {
        Objective::Tower(_) => false,
        Objective::Align(_) => true,
        _ => !chance,
    };
    let parallel = if is_parallel && !gpu {
        parallel_batches(recipe.gradient_accumulation_steps) as u64
    } else {
        1
    };
    // Those of a step's batches are added up as they come.
    let gradients = (recipe.gradient_accumulation_steps as u64).min(parallel + 1);
    // The moving average is a model of its own.
    let models = 1 + u64::from(recipe.ema_decay.is_some());
    let judge = match &stage.objective {
        Objective::Tower(losses) if losses.perceptual.is_some() => lpips::parameters(),
        _ => 0,
    };
    let all = F32 * (models * (trained + frozen) + judge);
    let (memory, host) = if gpu {
        // The layers' leave the device one after the other where they are computed again.
        let held = if recipe.gradient_checkpointing && layers > 0 {
            trained - counted.layers + counted.layers / layers as u64
        } else {
            trained
        };
        let memory = MemoryNeed {
            weights: all,
            gradients: F32 * held,
            optimizer: 0,
            // New weights are beside the old ones when activations and gradients are gone.
            activations: kept.max(F32 * (trained - held)),
        };
        let host = MemoryNeed {
            weights: 0,
            gradients: gradients * F32 * trained,
            optimizer: 2 * F32 * trained,
            activations: 0,
        };
        (memory, Some(host))
    } else {
        let memory = MemoryNeed {
            weights: all,
            gradients: gradients * F32 * trained,
            optimizer: 2 * F32 * trained,
            activations: parallel * kept,
        };
        (memory, None)
    };
    StagePlan {
        kind: stage.objective.kind(),
        steps,
        parts,
        trained,
        frozen,
        decayed: counted.decayed,
        weight_decay: stage.optimizer.weight_decay,
        samples,
        tokens: (tokens * samples as f64).round() as u64,
        measured: lengths.len(),
        padding,
        memory,
        host,
    }
}

/// What the language model reads.
struct Read {
    /// Mean positions of a sample.
    tokens: f64,
    padding: Option<f64>,
    /// The most of everything over the batches.
    largest: BatchShape,
}

impl Read {
    fn of(config: &VilaUConfig, samples: &[Sample], batch: usize) -> Self {
        let image = config.vision_tower.rqtransformer.positions().max(1);
        let longest = config.llm.max_length();
        if samples.is_empty() {
            let positions = (batch * longest) as f64;
            // Nothing takes more than pictures to generate.
            let largest = BatchShape {
                rows: batch as f64,
                length: longest as f64,
                text_targets: 0.0,
                visual_targets: positions,
                images: positions / image as f64,
            };
            return Self {
                tokens: longest as f64,
                padding: None,
                largest,
            };
        }
        let mut largest = BatchShape::default();
        let (mut read, mut padded) = (0.0, 0.0);
        for batch_of in samples.chunks(batch) {
            let layout = SequenceLayout::packed(batch_of, image, longest, None);
            let positions = (layout.rows * layout.length) as f64;
            read += positions * (1.0 - layout.padding());
            padded += positions;
            // A last batch that is not full stands for a full one.
            let scale = batch as f64 / batch_of.len() as f64;
            let shape = BatchShape {
                rows: layout.rows as f64 * scale,
                length: layout.length as f64,
                text_targets: layout.text_targets.len() as f64 * scale,
                visual_targets: layout.visual_targets.len() as f64 * scale,
                images: layout.visual_tokens as f64 / image as f64 * scale,
            };
            if batch_of.len() == batch || samples.len() < batch {
                largest = largest.max(shape);
            }
        }
        Self {
            tokens: read / samples.len() as f64,
            padding: Some(1.0 - read / padded),
            largest,
        }
    }
}

impl BatchShape {
    fn max(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            length: self.length.max(other.length),
            text_targets: self.text_targets.max(other.text_targets),
            visual_targets: self.visual_targets.max(other.visual_targets),
            images: self.images.max(other.images),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;

    const RECIPE: &str = r#"
        out = "runs/x"
        init = "hf:mit-han-lab/vila-u-7b-256"
        seed = 1
        steps = 10
        batch_size = 2
        gradient_accumulation_steps = 8
        checkpoint_every = 5
        eval_every = 5
        sample_every = 5

        [[stages]]
        objective = { kind = "sft", caption = 1.0, cfg_dropout = 0.1 }
        optimizer = { learning_rate = 1e-4, warmup_ratio = 0.03, weight_decay = 0.0, betas = [0.9, 0.95], max_grad_norm = 1.0 }
    "#;

    fn recipe(settings: &[&str]) -> Recipe {
        let settings: Vec<String> = settings.iter().map(|text| text.to_string()).collect();
        Recipe::parse(RECIPE, Path::new("a recipe"), &settings).unwrap()
    }

    fn stage(recipe: &Recipe, gpu: bool) -> StagePlan {
        let sizes = initial::sizes(recipe).unwrap();
        plan(recipe, &recipe.stages[0], 10, &sizes, &[], gpu)
    }

    fn resources(memory: u64) -> Resources {
        Resources {
            memory: Some(memory),
            ..Resources::default()
        }
    }

    /// LLaMA-2-7B has 6,738,415,616 parameters, and here four words more, in and out.
    const LANGUAGE: u64 = 6_738_415_616 + 2 * 4 * 4096;

    #[test]
    fn parameters_are_those_of_the_released_model() {
        let plan = stage(&recipe(&[]), false);
        let part = |plan: &StagePlan, name: &str| {
            let part = plan.parts.iter().find(|part| part.name == name).unwrap();
            [part.trained, part.frozen]
        };
        assert_eq!(part(&plan, "language model"), [LANGUAGE, 0]);
        assert_eq!(part(&plan, "vision encoder")[0], 0);
        let counted: u64 = plan.parts.iter().map(|part| part.trained).sum();
        assert_eq!(plan.trained, counted);
        // Two norms a layer and one after them are not decayed, beside those of the depth transformer.
        let norms = 65 * 4096;
        assert!(plan.trained - plan.decayed > norms && plan.trained - plan.decayed < 3 * norms);
        assert_eq!(
            (plan.samples, plan.tokens, plan.measured),
            (16, 16 * 8192, 0)
        );

        // Rank 2 beside four square layers, two to 11,008 and one back, in each of 32.
        let adapted = stage(&recipe(&["lora={ rank = 2, alpha = 4.0 }"]), false);
        let ranks = 4 * 2 * 4096 + 3 * (4096 + 11_008);
        assert_eq!(part(&adapted, "language model"), [32 * 2 * ranks, LANGUAGE]);
        let train = "stages.0.objective.train=[\"projector\"]";
        let projector = stage(&recipe(&[train]), false);
        assert_eq!(projector.trained, part(&plan, "projector")[0]);
    }

    #[test]
    fn memory_is_less_with_every_remedy() {
        let plain = stage(&recipe(&["depth_dropout=0.1"]), false);
        let memory = plain.memory;
        assert_eq!(memory.weights, 4 * (plain.trained + plain.frozen));
        assert_eq!(memory.optimizer, 8 * plain.trained);
        // One batch after the other: its gradients, and their sum.
        assert_eq!(memory.gradients, 8 * plain.trained);
        assert_eq!(
            stage(&recipe(&["gradient_accumulation_steps=1"]), false)
                .memory
                .gradients,
            4 * plain.trained
        );
        let checkpointed = stage(&recipe(&["gradient_checkpointing=true"]), false).memory;
        assert!(checkpointed.activations < memory.activations / 2);
        assert_eq!(checkpointed.weights, memory.weights);
        let single = stage(&recipe(&["batch_size=1"]), false).memory;
        assert!(single.activations < memory.activations * 6 / 10);

        let plan = Plan::new(
            &recipe(&[]),
            &Device::flex(),
            &resources(80_000_000_000),
            false,
        )
        .unwrap();
        let totals: Vec<u64> = plan.remedies.iter().map(|(_, bytes)| *bytes).collect();
        assert_eq!(totals.len(), 3);
        assert!(totals[0] < plain.memory.total());
        assert!(totals.windows(2).all(|pair| pair[1] < pair[0]));
        let error = plan.check().unwrap_err().to_string();
        for word in [
            "80.00 GB",
            "gradient_checkpointing = true",
            "gradient_accumulation_steps = 16",
            "lora =",
        ] {
            assert!(error.contains(word), "{word}: {error}");
        }
        let plan = Plan::new(
            &recipe(&[]),
            &Device::flex(),
            &resources(totals[0] * 10),
            false,
        )
        .unwrap();
        assert!(plan.check().is_ok());
    }

    /// On a GPU are weights, gradients and activations; gradients are added up, and moments kept, on the
    /// host.
    #[test]
    fn a_gpu_leaves_the_optimizer_to_the_host() {
        let [cpu, gpu] = [false, true].map(|gpu| stage(&recipe(&[]), gpu));
        let host = gpu.host.unwrap();
        assert_eq!(
            (gpu.memory.optimizer, host.optimizer),
            (0, cpu.memory.optimizer)
        );
        assert_eq!(gpu.memory.weights, cpu.memory.weights);
        assert!(gpu.memory.activations > cpu.memory.activations);
        let checkpointed = stage(&recipe(&["gradient_checkpointing=true"]), true);
        assert!(checkpointed.memory.gradients < gpu.memory.gradients / 2);
    }

    #[test]
    fn ranks_of_one_machine_share_its_memory() {
        let [cpu, gpu] = [false, true].map(|gpu| stage(&recipe(&[]), gpu));
        let resources = Resources {
            memory: None,
            ranks: 4,
            here: 2,
        };
        let [both, cards] = [&cpu, &gpu].map(|stage| stage.clone().on(&resources));
        assert_eq!(
            (both.samples, both.tokens),
            (4 * cpu.samples, 4 * cpu.tokens)
        );
        assert_eq!(both.memory.total(), 2 * cpu.memory.total());
        assert_eq!(cards.memory.total(), gpu.memory.total());
        assert_eq!(cards.host.unwrap().total(), 2 * gpu.host.unwrap().total());
    }

    #[test]
    fn sizes_that_nobody_knows() {
        let unknown = recipe(&["init=hf:nobody/knows"]);
        let error = initial::sizes(&unknown).err().unwrap().to_string();
        assert!(error.contains("vila-u info hf:nobody/knows"), "{error}");
    }
}
