//! The run folder: what a run leaves there, and finds again when it is resumed.
//!
//! ```text
//! out/recipe.toml                         the recipe with every override
//! out/run.json                            program, revision, seed, and every start
//! out/sources.json                        the data: its shards and their sizes
//! out/metrics.jsonl                       one object a step
//! out/events.out.tfevents.*               the same for TensorBoard
//! out/curves.png                          the same as a picture
//! out/samples/step-00001000.png           sample sheets
//! out/checkpoints/best.json               which of the checkpoints is the best
//! out/checkpoints/step-00001000/          the last checkpoints, and the best
//!     model/                              the model in the released layout, f32
//!     ema/model/                          the moving average of its weights, where there is one
//!     discriminator/                      what judges a tower's reconstructions, where there is one
//!     adapter/                            with LoRA, the adapters of that model, in PEFT's files
//!     optimizer.safetensors               the optimizer's moments and time
//!     data.json                           the dataloader's state
//! out/skipped.jsonl                       records that could not be used, pictures of pages too, and why
//! out/failed.json                         why the run stopped by itself, and on which samples
//! out/model/                              the finished model
//! out/adapter/                            with LoRA, what was merged into it
//! ```

pub(super) mod checkpoints;
pub mod curves;
pub(super) mod failure;
pub(super) mod metrics;
pub(super) mod optimizer_state;
pub(super) mod run_record;
pub(super) mod sample_sheet;
mod tensorboard;
