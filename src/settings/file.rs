//! The settings file: TOML, a table for each part, every key checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::settings::SettingError;
use crate::settings::definitions::{DEFINITIONS, Secrecy};

/// The file and its settings by their whole key, `redis.host`. `name` is what named it.
pub(super) fn read(
    name: &str,
    path: PathBuf,
    errors: &mut Vec<SettingError>,
) -> Option<(PathBuf, BTreeMap<String, String>)> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            errors.push(SettingError::new(name, format!("{} cannot be read: {error}", path.display())));
            return None;
        }
    };
    let table: toml::Table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            // Not the error's own display, which quotes the line: it may be the one with the password.
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            errors.push(SettingError::new(format!("{}:{line}", path.display()), error.message().to_owned()));
            return None;
        }
    };
    let mut values = BTreeMap::new();
    flatten("", &table, &path, &mut values, errors);
    for key in values.keys().filter(|key| !is_known(key)) {
        errors.push(SettingError::new(format!("{}: {key}", path.display()), unknown_key(key)));
    }
    Some((path, values))
}

fn line_of(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

fn flatten(
    prefix: &str,
    table: &toml::Table,
    path: &Path,
    values: &mut BTreeMap<String, String>,
    errors: &mut Vec<SettingError>,
) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if let toml::Value::Table(inner) = value {
            flatten(&key, inner, path, values, errors);
        } else if let Some(text) = scalar(value) {
            values.insert(key, text);
        } else {
            let problem = format!("a {} is not understood here: give text, a number, or true", value.type_str());
            errors.push(SettingError::new(format!("{}: {key}", path.display()), problem));
        }
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn is_known(key: &str) -> bool {
    DEFINITIONS.iter().any(|definition| {
        definition.key == key
            || definition.secrecy != Secrecy::Plain && key.strip_suffix("_file") == Some(definition.key)
    })
}

fn unknown_key(key: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    match DEFINITIONS.iter().find(|definition| definition.key.rsplit('.').next() == Some(last)) {
        Some(near) => format!("there is no such setting: is `{}` meant?", near.key),
        None => "there is no such setting: `parallax config check` lists them all".to_owned(),
    }
}
