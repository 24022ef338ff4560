//! Options of the evaluations by FID: reconstruction, and two sets of pictures.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use vila_u::evaluation::{
    benchmarks::reconstruction::Resize, fid::Definition, inception::FeatureLayer,
};

#[derive(Args)]
pub struct EvalReconstruction {
    /// The pictures: a folder, a .tar shard or a .parquet table, or a pattern of them such as "val/{00..63}.tar"
    #[arg(long)]
    pub data: String,
    /// The folder for result.json, samples.jsonl and the statistics (.npz)
    #[arg(short, long, default_value = "results/reconstruction")]
    pub output: PathBuf,
    /// How a picture becomes a square: center-crop (torchvision's Resize and CenterCrop) or stretch
    #[arg(long, default_value = "center-crop", value_parser = resizes())]
    pub resize: Resize,
    /// Whose FID: torch-fidelity, pytorch-fid (as RQ-VAE's rFID) or clean-fid
    #[arg(long, default_value = "pytorch-fid", value_parser = definitions())]
    pub definition: Definition,
    #[command(flatten)]
    pub network: Network,
    /// LPIPS' weights, as `vila-u convert` writes them; without them LPIPS is left out
    #[arg(long, value_name = "FILE")]
    pub lpips: Option<PathBuf>,
    /// Pictures that go through the networks together
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch_size: u32,
}

#[derive(Args)]
pub struct EvalFid {
    /// A folder of pictures, a .tar shard or a .parquet table, a pattern of them, or statistics (.npz)
    pub a: String,
    /// The other side
    pub b: String,
    /// The folder for result.json and the statistics of both (.npz)
    #[arg(short, long, default_value = "results/fid")]
    pub output: PathBuf,
    /// Whose FID: torch-fidelity, pytorch-fid or clean-fid (as MJHQ-30K's)
    #[arg(long, default_value = "clean-fid", value_parser = definitions())]
    pub definition: Definition,
    #[command(flatten)]
    pub network: Network,
    /// FID of each category too, which is the folder that a picture lies in, or its class in a shard or table
    #[arg(long)]
    pub per_category: bool,
    /// FID of each category too, which this file says for the name of each picture: MJHQ-30K's meta_data.json
    #[arg(long, value_name = "FILE", conflicts_with = "per_category")]
    pub categories: Option<PathBuf>,
    /// Pictures that go through the network together
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch_size: u32,
}

/// FID's network, and where its features are taken.
#[derive(Args)]
pub struct Network {
    /// FID's Inception-v3: pt_inception-2015-12-05-6726825d.pth, or what `vila-u convert` made of it
    #[arg(long, value_name = "FILE")]
    pub inception: Option<PathBuf>,
    /// Layers whose features are compared, separated by commas: 64, 192, 768 or 2048
    #[arg(long, value_delimiter = ',', default_value = "2048", value_parser = layers())]
    pub layer: Vec<FeatureLayer>,
}

fn resizes() -> impl TypedValueParser<Value = Resize> {
    PossibleValuesParser::new(Resize::ALL.map(Resize::name)).try_map(|name| Resize::parse(&name))
}

fn definitions() -> impl TypedValueParser<Value = Definition> {
    PossibleValuesParser::new(Definition::ALL.map(Definition::name))
        .try_map(|name| Definition::parse(&name))
}

fn layers() -> impl TypedValueParser<Value = FeatureLayer> {
    PossibleValuesParser::new(FeatureLayer::ALL.map(FeatureLayer::name))
        .try_map(|name| FeatureLayer::parse(&name))
}
