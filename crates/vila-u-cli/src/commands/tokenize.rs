//! `vila-u tokenize`: the ids the model sees.

use serde_json::json;
use vila_u::{
    Result,
    checkpoint::config,
    text::conversation::{Reply, Turn, generation_prompt},
};

use super::files;
use crate::{
    arguments::{Global, Task, Tokenize},
    console::Console,
};

pub fn run(global: &Global, args: &Tokenize, console: &Console) -> Result<()> {
    let tokenizer = config::tokenizer(&files(&global.model, console)?.join("llm"))?;
    let text = "<image>\n".repeat(args.image_slots) + &args.text;
    let reply = args.task.map(|task| match task {
        Task::Image => Reply::Image,
        Task::Video => Reply::Video,
        Task::Chat => Reply::Text,
    });
    let text = match reply {
        Some(reply) => generation_prompt(&[Turn::human(text)], reply, !args.no_system)?,
        None => text,
    };
    let ids = tokenizer.encode_prompt(&text);
    let list: Vec<String> = ids.iter().map(i64::to_string).collect();
    console.result(list.join(" "), json!({"ids": ids, "prompt": text}))
}
