//! Reads a recording of the real application: the keyspace after a run and the commands of the run with their times.
//!
//! A recording is not part of the project; where one is at hand, the demo and some tests use it instead of the generator.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use crate::traffic::{Burst, Command, command};

/// Commands that lie closer together than this were sent without waiting between them, in seconds.
const BURST_GAP_SECONDS: f64 = 0.0002;

/// The file names in the folder of a recording.
pub const KEYSPACE_FILE: &str = "relay-keyspace.json.gz";
/// See [`KEYSPACE_FILE`].
pub const TRACE_FILE: &str = "relay-trace.jsonl.gz";

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be opened, read or unpacked.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The file does not have the expected form.
    #[error("{path}, {place}: {reason}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// The line of a trace, or the type of a key.
        place: String,
        /// What is wrong there; never a value.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Recorded {
    #[serde(rename = "type")]
    kind: String,
    ttl: i64,
    value: Value,
}

#[derive(Deserialize)]
struct Line {
    t: f64,
    cmd: Vec<String>,
}

/// The commands that build the keyspace in `path`, in the order of its keys.
///
/// # Errors
/// [`RecordingError`] when the file cannot be read or has another form.
pub fn keyspace(path: &Path) -> Result<Vec<Command>, RecordingError> {
    let form = |place: &str, reason: String| RecordingError::Form { path: path.into(), place: place.into(), reason };
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).map_err(|source| RecordingError::File { path: path.into(), source })?;
    let keys: std::collections::BTreeMap<String, Recorded> =
        serde_json::from_str(&text).map_err(|error| form("JSON", error.to_string()))?;
    let mut out = Vec::new();
    for (key, recorded) in &keys {
        let built = build(key, recorded).ok_or_else(|| form(&recorded.kind, "a value of another form".to_owned()))?;
        out.extend(built);
        if recorded.ttl >= 0 {
            out.push(command(&["expire", key, &recorded.ttl.max(1).to_string()]));
        }
    }
    Ok(out)
}

/// The commands that build one recorded key; `None` where type and value do not fit each other.
fn build(key: &str, recorded: &Recorded) -> Option<Vec<Command>> {
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let one = |name: &str, arguments: &[String]| -> Vec<Command> {
        let mut parts = vec![name, key];
        parts.extend(arguments.iter().map(String::as_str));
        vec![command(&parts)]
    };
    match recorded.kind.as_str() {
        "string" => Some(one("set", &[recorded.value.as_str()?.to_owned()])),
        "hash" => {
            let mut arguments = Vec::new();
            for (field, value) in recorded.value.as_object()? {
                arguments.extend([field.clone(), value.as_str()?.to_owned()]);
            }
            Some(one("hset", &arguments))
        }
        "list" => Some(one("rpush", &texts(&recorded.value)?)),
        "set" => Some(one("sadd", &texts(&recorded.value)?)),
        "zset" => {
            let flat = texts(&recorded.value)?;
            let swapped: Vec<String> = flat.chunks(2).flat_map(|pair| pair.iter().rev().cloned()).collect();
            Some(one("zadd", &swapped))
        }
        "stream" => {
            let mut commands = Vec::new();
            for entry in recorded.value.as_array()? {
                let mut arguments = vec![entry.get(0)?.as_str()?.to_owned()];
                arguments.extend(texts(entry.get(1)?)?);
                commands.extend(one("xadd", &arguments));
            }
            Some(commands)
        }
        _ => None,
    }
}

/// The recorded commands in `path`, grouped into bursts by their times. A MULTI stays together with its EXEC.
///
/// # Errors
/// [`RecordingError`] when the file cannot be read or has another form.
pub fn bursts(path: &Path) -> Result<Vec<Burst>, RecordingError> {
    let mut bursts: Vec<Burst> = Vec::new();
    let mut current = Burst::new();
    let mut last = f64::NEG_INFINITY;
    let mut in_multi = false;
    for (number, line) in BufReader::new(open(path)?).lines().enumerate() {
        let line = line.map_err(|source| RecordingError::File { path: path.into(), source })?;
        let Line { t, cmd } = serde_json::from_str(&line).map_err(|error| RecordingError::Form {
            path: path.into(),
            place: format!("line {}", number + 1),
            reason: error.to_string(),
        })?;
        if t - last > BURST_GAP_SECONDS && !in_multi && !current.is_empty() {
            bursts.push(std::mem::take(&mut current));
        }
        last = t;
        match cmd.first().map(|name| name.to_ascii_lowercase()).as_deref() {
            Some("multi") => in_multi = true,
            Some("exec" | "discard") => in_multi = false,
            Some(_) => {}
            None => continue,
        }
        current.push(cmd.into_iter().map(String::into_bytes).collect());
    }
    if !current.is_empty() {
        bursts.push(current);
    }
    Ok(bursts)
}

fn open(path: &Path) -> Result<GzDecoder<File>, RecordingError> {
    File::open(path).map(GzDecoder::new).map_err(|source| RecordingError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut packer = GzEncoder::new(file.reopen().unwrap(), Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap();
        file
    }

    #[test]
    fn commands_close_in_time_are_one_burst_and_a_multi_is_never_cut() {
        let file = packed(concat!(
            "{\"t\":1.0,\"cmd\":[\"get\",\"a\"]}\n",
            "{\"t\":1.0001,\"cmd\":[\"get\",\"n\\u0000b\"]}\n",
            "{\"t\":1.5,\"cmd\":[\"multi\"]}\n",
            "{\"t\":1.6,\"cmd\":[\"set\",\"a\",\"1\"]}\n",
            "{\"t\":1.7,\"cmd\":[\"exec\"]}\n",
        ));
        let read = bursts(file.path()).unwrap();
        assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(read[0][1][1], b"n\0b");
    }

    #[test]
    fn every_type_is_built_with_its_own_command() {
        let file = packed(
            &serde_json::json!({
                "h": {"type": "hash", "ttl": 9, "value": {"f": "v"}},
                "z": {"type": "zset", "ttl": -1, "value": ["m", "1.5"]},
                "x": {"type": "stream", "ttl": -1, "value": [["5-0", ["data", "{}"]]]},
                "l": {"type": "list", "ttl": -1, "value": ["b", "a"]},
            })
            .to_string(),
        );
        let built = keyspace(file.path()).unwrap();
        let wanted = [
            command(&["hset", "h", "f", "v"]),
            command(&["expire", "h", "9"]),
            command(&["rpush", "l", "b", "a"]),
            command(&["xadd", "x", "5-0", "data", "{}"]),
            command(&["zadd", "z", "1.5", "m"]),
        ];
        assert_eq!(built, wanted);
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        let file = packed("{\"t\":1.0,\"cmd\":[\"get\",\"a\"]}\nnonsense\n");
        assert!(bursts(file.path()).unwrap_err().to_string().contains("line 2"));
    }
}
