//! Keys set from the command line.

use toml::{Table, Value};

use crate::{Error, Result};

/// `key.path=value`: the value is TOML where it parses as TOML, and a plain string otherwise.
pub(super) fn set(recipe: &mut Value, setting: &str) -> Result<()> {
    let Some((key, text)) = setting.split_once('=') else {
        return Err(Error::usage(format!(
            "--set {setting}: write it as key=value, for example --set steps=100"
        )));
    };
    let text = text.trim();
    let value = match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut parsed) => parsed.remove("value").unwrap_or(Value::String(text.into())),
        Err(_) => Value::String(text.into()),
    };
    // A misspelt key is caught by name when the whole recipe is read.
    let mut place = recipe;
    let (parents, last) = key.trim().rsplit_once('.').unwrap_or(("", key.trim()));
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        place = child(place, part).ok_or_else(|| no_such(key, part))?;
    }
    *child(place, last).ok_or_else(|| no_such(key, last))? = value;
    Ok(())
}

/// The value under a key; a table that is not there yet is made.
fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match value {
        Value::Table(table) => Some(table.entry(key).or_insert(Value::Table(Table::new()))),
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    }
}

fn no_such(key: &str, part: &str) -> Error {
    Error::usage(format!("--set {key}: the recipe has no `{part}` there"))
}
