//! `vila-u info`: what is in a checkpoint, or a new one with random weights.

use serde_json::json;
use vila_u::{
    Result,
    checkpoint::{self, Info as Contents},
    memory::in_words,
};

use super::{files, to_json};
use crate::{
    arguments::{Global, Info},
    console::Console,
};

pub fn run(global: &Global, args: &Info, console: &Console) -> Result<()> {
    if let (Some(name), Some(folder)) = (&args.random, &args.output) {
        checkpoint::released::create(folder, name)?;
        let folder = folder.display().to_string();
        return console.result(&folder, json!({"model": folder}));
    }
    let name = args.model.as_ref().unwrap_or(&global.model);
    let info = checkpoint::info(&files(name, console)?)?;
    console.result(describe(&info), to_json(&info)?)
}

fn describe(info: &Contents) -> String {
    let mut lines = vec![format!(
        "{:18} {:>14} {:>10}  stored as",
        "part", "parameters", "on disk"
    )];
    for part in &info.parts {
        let dtypes: Vec<&str> = part.dtypes.keys().map(String::as_str).collect();
        lines.push(format!(
            "{:18} {:>14} {:>10}  {}",
            part.name,
            part.parameters,
            in_words(part.bytes),
            dtypes.join(", ")
        ));
    }
    lines.push(format!(
        "{:18} {:>14} {:>10}",
        "all",
        info.parameters,
        in_words(info.bytes)
    ));
    let visual = &info.visual;
    let [rows, columns, depth] = visual.codes;
    lines.push(format!(
        "images             {0} x {0} pixels as {rows} x {columns} x {depth} codes of {1}",
        visual.image_size, visual.codebook
    ));
    if let Some(language) = &info.language {
        lines.push(format!(
            "language model     {} layers of {}, {} tokens, context {}, {} of cache a token",
            language.layers,
            language.width,
            language.vocabulary,
            language.context,
            in_words(language.cache_per_token)
        ));
    }
    lines.push(format!(
        "weights in memory  {} as f32, {} as bf16, {} as q8_0, {} as q4_0",
        in_words(info.memory.f32),
        in_words(info.memory.bf16),
        in_words(info.memory.q8_0),
        in_words(info.memory.q4_0)
    ));
    let estimates = [
        ("generating images", &info.images, "images"),
        ("generating videos", &info.videos, "videos"),
    ];
    for (name, need, things) in estimates {
        if let Some(need) = need {
            lines.push(format!(
                "{name:<18} {} beside the weights, {} for batches of {} {things}",
                in_words(need.bytes(1)),
                in_words(need.bytes(need.at_once)),
                need.at_once
            ));
        }
    }
    lines.join("\n")
}
