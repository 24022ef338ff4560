//! Changes to a recipe that take less memory.

use crate::training::recipe::{Lora, Recipe};

/// Machines that a tower is proposed to be spread over.
const SPREAD: usize = 8;

/// What takes less memory: what it is called, and what it does.
pub(super) type MemorySaving = (String, fn(&mut Recipe));

/// Those not yet taken, one after the other.
pub(super) fn memory_savings(recipe: &Recipe) -> Vec<MemorySaving> {
    let mut savings: Vec<MemorySaving> = Vec::new();
    let language = !recipe.is_tower();
    if language && !recipe.gradient_checkpointing {
        savings.push(("gradient_checkpointing = true".into(), |recipe| {
            recipe.gradient_checkpointing = true
        }));
    }
    if language && recipe.batch_size > 1 {
        let samples = recipe.batch_size * recipe.gradient_accumulation_steps;
        savings.push((
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
        savings.push((
            format!("batch_size = {each} on {SPREAD} machines"),
            |recipe| recipe.batch_size /= SPREAD,
        ));
    }
    if language && recipe.lora.is_none() && recipe.model.llm.is_none() {
        savings.push(("lora = { rank = 64, alpha = 16 }".into(), |recipe| {
            recipe.lora = Some(Lora::all_layers(64, 16.0));
        }));
    }
    savings
}
