//! Keys of older recipes: each is refused with the name that it has now.

use toml::Value;

use crate::{Error, Result};

/// The table that a key is in, without the numbers of lists; its old name; its name now.
const RENAMED: [(&str, &str, &str); 30] = [
    ("", "accumulation", "gradient_accumulation_steps"),
    ("", "dropout", "depth_dropout"),
    ("", "ema", "ema_decay"),
    ("", "explodes", "loss_spike_factor"),
    ("", "keep", "keep_checkpoints"),
    ("", "recompute", "gradient_checkpointing"),
    (
        "data",
        "frames",
        "frames` of the source with `format = \"nano\"",
    ),
    (
        "data",
        "gallery",
        "gallery` of the source with `format = \"nano\"",
    ),
    ("data", "max_bad", "max_skipped"),
    ("data", "shuffle", "shuffle_buffer"),
    ("data", "workers", "num_workers"),
    ("data.sources", "form", "kind"),
    ("lora", "targets", "target_modules"),
    ("model", "drawing", "generation"),
    ("model", "position_free", "no_position_embedding"),
    ("model.drawing", "guidance", "visual_guidance"),
    ("model.drawing", "temperature", "visual_temperature"),
    ("model.generation", "guidance", "visual_guidance"),
    ("model.generation", "temperature", "visual_temperature"),
    ("stages.objective", "commitment", "commitment_weight"),
    ("stages.objective", "contrastive", "contrastive_weight"),
    ("stages.objective", "drop_caption", "cfg_dropout"),
    ("stages.objective", "hide_visual", "visual_token_dropout"),
    ("stages.objective", "pixel", "pixel_loss"),
    (
        "stages.objective",
        "reconstruction",
        "reconstruction_weight",
    ),
    ("stages.objective", "video", "video_generation"),
    ("stages.objective.adversarial", "start", "start_step"),
    ("stages.optimizer", "clip", "max_grad_norm"),
    ("stages.optimizer", "floor", "min_lr_ratio"),
    ("stages.optimizer", "warm_up", "warmup_ratio"),
];

/// # Errors
/// When the recipe has keys of an older version: all of them, with their names of today.
pub(super) fn check(recipe: &Value) -> Result<()> {
    let mut found = Vec::new();
    visit(recipe, "", &mut found);
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("recipe: {}", found.join(", "))))
}

fn visit(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let renamed = RENAMED
                    .iter()
                    .find(|(table, old, _)| *table == path && old == key);
                if let Some((_, old, new)) = renamed {
                    let message = format!("`{old}` is now `{new}`");
                    if !found.contains(&message) {
                        found.push(message);
                    }
                }
                let inner = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                visit(value, &inner, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, path, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_old_key_is_refused_with_its_new_name() {
        for (table, old, new) in RENAMED {
            let table = match table.strip_prefix("stages") {
                Some(inner) => format!("[[stages]]\n[stages{inner}]"),
                None if table.is_empty() => String::new(),
                None => format!("[{table}]"),
            };
            let recipe: Value = toml::from_str(&format!("{table}\n{old} = 1")).expect("TOML");
            let error = check(&recipe).expect_err("an error");
            assert!(matches!(error, Error::Usage(_)), "{error}");
            let message = format!("`{old}` is now `{new}`");
            assert!(error.to_string().contains(&message), "{error}");
        }
    }

    #[test]
    fn the_same_words_elsewhere_are_none() {
        let text = "[lora]\ndropout = 0.1\n[[stages]]\nobjective = { kind = \"sft\" }";
        let recipe: Value = toml::from_str(text).expect("TOML");
        assert!(check(&recipe).is_ok());
    }
}
