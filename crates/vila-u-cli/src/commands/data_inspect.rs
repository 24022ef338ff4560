//! `vila-u data inspect`: a recipe's samples as the model sees them.

use std::path::PathBuf;

use serde_json::json;
use vila_u::{
    Error, Result,
    data::Skipped,
    media::{save_png, sheet::grid},
    training::{
        data::inspect::{Inspected, Inspection, inspect},
        recipe::Recipe,
    },
};

use super::{check_folder, check_not_input, create_folder, to_json};
use crate::{arguments::DataInspect, console::Console};

/// Pictures side by side on the contact sheet.
const COLUMNS: usize = 8;
const SHEET: &str = "sheet.png";
/// Skipped records that are named.
const REASONS: usize = 5;

pub fn run(args: &DataInspect, console: &Console) -> Result<()> {
    if args.n == 0 {
        return Err(Error::usage("-n must be at least 1"));
    }
    args.output.as_deref().map(check_folder).transpose()?;
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    if let Some(folder) = &args.output {
        check_not_input(&folder.join(SHEET), &pictures_of_that_name(&recipe)?)?;
    }
    let Inspection { samples, skipped } = inspect(&recipe, args.n)?;
    let mut first = 1;
    for sample in &samples {
        let mut value = to_json(sample)?;
        value["pictures"] = json!(sample.pictures.len());
        console.result(describe(sample, first), value)?;
        first += sample.pictures.len();
    }
    say_skipped(samples.len(), &skipped, console)?;
    if let Some(folder) = &args.output {
        create_folder(folder)?;
        let file = folder.join(SHEET);
        let pictures: Vec<_> = samples
            .into_iter()
            .flat_map(|sample| sample.pictures)
            .collect();
        save_png(&file, &grid(&pictures, COLUMNS))?;
        console.say(format!(
            "{} pictures are in {}",
            pictures.len(),
            file.display()
        ));
    }
    Ok(())
}

/// Where the recipe's data may have a picture of the name that the sheet gets.
fn pictures_of_that_name(recipe: &Recipe) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for source in &recipe.data.sources {
        let beside = source.files()?.into_iter();
        let beside = beside.map(|shard| shard.with_file_name(SHEET));
        paths.extend(source.folder.iter().map(|folder| folder.join(SHEET)));
        paths.extend(beside);
    }
    Ok(paths)
}

/// How many records were skipped and why the first of them; with --json as a last line.
fn say_skipped(samples: usize, skipped: &[Skipped], console: &Console) -> Result<()> {
    let records = skipped.iter().filter(|skipped| !skipped.picture).count();
    if skipped.is_empty() {
        return Ok(());
    }
    let pictures = skipped.len() - records;
    console.say(format!(
        "{records} of {} records cannot be used, {pictures} pictures of pages are left out",
        samples + records
    ));
    for Skipped {
        shard, key, reason, ..
    } in skipped.iter().take(REASONS)
    {
        console.say(format!("  {key} of {}: {reason}", shard.display()));
    }
    if skipped.len() > REASONS {
        console.say(format!("  and {} more", skipped.len() - REASONS));
    }
    if console.json {
        console.result("", json!({"skipped": to_json(&skipped)?}))?;
    }
    Ok(())
}

/// A line about the sample and its tokens below, those that are predicted in brackets. `first`: number
/// of its first picture.
fn describe(sample: &Inspected, first: usize) -> String {
    let last = first + sample.pictures.len();
    let pictures = match last - first {
        0 => "no picture".into(),
        1 => format!("picture {first}"),
        _ => format!("pictures {first} to {}", last - 1),
    };
    let cut = match sample.cut {
        0 => String::new(),
        cut => format!(", {cut} more are cut"),
    };
    let loss: usize = (sample.pieces.iter())
        .filter(|piece| piece.loss)
        .map(|piece| piece.positions)
        .sum();
    let mut text = format!(
        "{} {}: {} positions{cut}, {loss} with loss, {pictures}\n ",
        sample.source, sample.key, sample.positions
    );
    let mut open = false;
    for piece in &sample.pieces {
        if open && !piece.loss {
            text += "]";
        }
        text += " ";
        if piece.loss && !open {
            text += "[";
        }
        open = piece.loss;
        text += &piece.text;
        if piece.id.is_none() {
            text += &format!("x{}", piece.positions);
        }
    }
    if open {
        text += "]";
    }
    text
}
