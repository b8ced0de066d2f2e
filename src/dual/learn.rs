//! What the server's table did not tell at the start is asked for: commands that came to it later, with a module or another
//! server, and keys that only the server itself finds in a command.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use crate::dual::Engine;
use crate::model::command::Command;
use crate::model::command::table::Table;

/// Names that the server did not know, which are not asked about again for a while; at more of them all are forgotten.
const UNKNOWN_NAMES_MAX: usize = 256;
/// For how long.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// The server's table of commands, and what was learned since.
pub(super) struct Commands {
    table: ArcSwap<Table>,
    unknown: Mutex<HashMap<String, Instant>>,
}

impl Commands {
    pub(super) fn new(table: Table) -> Self {
        Self { table: ArcSwap::from_pointee(table), unknown: Mutex::new(HashMap::new()) }
    }

    /// The table as it is now.
    pub(super) fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Whether the server said lately that it knows no such command.
    pub(super) fn is_known_to_be_unknown(&self, name: &str) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.retain(|_, since| since.elapsed() < UNKNOWN_FOR);
        unknown.contains_key(name)
    }

    fn note_unknown(&self, name: String) {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() >= UNKNOWN_NAMES_MAX {
            unknown.clear();
        }
        unknown.insert(name, Instant::now());
    }
}

impl Engine {
    /// Asks the server about a command that its table does not have. Each is asked about once; a server that cannot be asked
    /// leaves it unknown.
    pub(super) async fn learn(&self, command: &Command) {
        let Some(name) = command.arg(0) else { return };
        if self.commands.table().get(name).is_some() {
            return;
        }
        let asked = command.name();
        if self.commands.is_known_to_be_unknown(&asked) {
            return;
        }
        let info = Command::new(["COMMAND".into(), "INFO".into(), name.clone()]);
        let Ok(reply) = self.looks.command(info).await else { return };
        match reply.as_array().and_then(|rows| rows.first()).and_then(|row| self.commands.table().with(&asked, row)) {
            Some(table) => self.commands.table.store(Arc::new(table)),
            None => self.commands.note_unknown(asked),
        }
    }

    /// The positions of the command's keys; the server is asked where its table does not tell.
    pub(super) async fn positions(&self, command: &Command) -> Vec<usize> {
        if let Some(positions) = self.commands.table().key_positions(command) {
            return positions;
        }
        let mut question = vec!["COMMAND".into(), "GETKEYS".into()];
        question.extend(command.0.iter().cloned());
        // An error says that it has no keys, or cannot be understood: then Redis refuses it as well.
        let Ok(reply) = self.looks.command(Command(question)).await else { return Vec::new() };
        let keys: Vec<_> = reply.as_array().unwrap_or_default().iter().filter_map(|key| key.as_bulk()).collect();
        // Wherever a key stands: an argument that only looks like one is looked at once too often, and nothing else.
        (1..command.0.len()).filter(|index| command.arg(*index).is_some_and(|word| keys.contains(&word))).collect()
    }
}
