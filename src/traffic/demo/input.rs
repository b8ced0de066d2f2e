//! What the demo sends: a recording of the real application where one is given, else traffic made by the generator.

use std::path::{Path, PathBuf};

use crate::traffic::recording::{self, RecordingError};
use crate::traffic::world::Shape;
use crate::traffic::{Burst, Command, generator};

/// Where the traffic comes from and how much of it is made.
#[derive(Clone, Debug)]
pub struct Source {
    /// The recorded commands; the generator when absent.
    pub trace: Option<PathBuf>,
    /// The recorded keyspace; the generator when absent.
    pub keyspace: Option<PathBuf>,
    /// How many relayed requests the generator makes.
    pub requests: usize,
    /// The size and the seed of the generator.
    pub shape: Shape,
}

impl Source {
    /// Takes trace and keyspace from the folder of a recording, where they are not given one by one.
    pub fn use_folder(&mut self, folder: &Path) {
        self.trace.get_or_insert_with(|| folder.join(recording::TRACE_FILE));
        self.keyspace.get_or_insert_with(|| folder.join(recording::KEYSPACE_FILE));
    }
}

/// The traffic in full.
#[derive(Debug)]
pub(super) struct Input {
    /// One sentence on where it comes from.
    pub(super) about: String,
    /// The commands that build the state before.
    pub(super) keyspace: Vec<Command>,
    /// The traffic.
    pub(super) bursts: Vec<Burst>,
}

/// Reads or makes the traffic.
pub(super) fn load(source: &Source) -> Result<Input, RecordingError> {
    let Shape { seed, api_keys, days, .. } = source.shape;
    let made = format!("generated with seed {seed}");
    let (keyspace, keyspace_about) = match &source.keyspace {
        Some(path) => (recording::keyspace(path)?, "recorded".to_owned()),
        None => (generator::keyspace(&source.shape), format!("{made} ({api_keys} API keys, {days} days)")),
    };
    let (bursts, bursts_about): (Vec<Burst>, _) = match &source.trace {
        Some(path) => (recording::bursts(path)?, "recorded".to_owned()),
        None => {
            let bursts = generator::requests(&source.shape, source.requests).collect();
            (bursts, format!("{made} ({} relayed requests)", source.requests))
        }
    };
    Ok(Input { about: format!("keyspace {keyspace_about}; traffic {bursts_about}"), keyspace, bursts })
}
