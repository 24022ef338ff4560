//! Golden tests: our numbers against tensors recorded from the authors' implementation
//! (`tiny-d4/README.json` explains each of them).
#![allow(clippy::unwrap_used, clippy::panic)]

mod base;
mod checkpoint;
mod depth;
#[path = "../../../vila-u-kernels/tests/every_instruction_set/mod.rs"]
mod every_instruction_set;
mod fid;
mod fixture;
mod generate;
mod language;
mod losses;
mod preprocess;
mod prompts;
mod quantizer;
mod reply;
mod sampling;
mod score;
mod sequence;
mod torch_file;
mod tower;
mod train;
mod zero_shot;
