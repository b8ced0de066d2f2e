//! Plans one EXEC: which keys are marked, how, and which scripts stand between the commands (rules W1-W3, G2).
//!
//! Pure: commands and what they touch go in, the commands to send and the places of their replies come out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use crate::model::catalog::{Kind, Layout, PushSide};
use crate::model::command::Command;
use crate::model::command::effect::{End, Presence, Touch, Touched};
use crate::model::key::Key;
use crate::stores::redis::script;
use crate::stores::redis::{NOTE, OUTBOX};

/// A command that touches more elements than this marks its collection whole.
pub const ELEMENTS_MARKED_MAX: usize = 512;
/// At most this many commands share an EXEC, since Redis does nothing else meanwhile.
pub const EXEC_COMMANDS_MAX: usize = 256;
/// At most this many entries are pushed to one log before it is captured (G3).
pub const LOG_PUSHES_MAX: usize = 100;

/// A touch of a mirrored record, with its kind.
#[derive(Clone, Debug)]
pub struct MirroredTouch {
    /// The touch.
    pub touch: Touch,
    /// The kind of its key.
    pub kind: std::sync::Arc<Kind>,
}

/// A command of an EXEC and the mirrored records it touches; none for a command that is only carried along in its order.
#[derive(Clone, Debug)]
pub struct Step {
    /// The command.
    pub command: Command,
    /// What it touches.
    pub touches: Vec<MirroredTouch>,
}

/// An EXEC, ready to be sent.
#[derive(Debug)]
pub struct Exec {
    /// All that is sent, from MULTI to EXEC.
    pub commands: Vec<Command>,
    /// Where each step's own command stands in `commands`.
    places: Vec<usize>,
}

impl Exec {
    /// The place of a step's command among what is sent, and so of its reply at queueing.
    #[must_use]
    pub fn place(&self, step: usize) -> usize {
        self.places.get(step).copied().unwrap_or_default()
    }

    /// The place of a step's reply within the answer of EXEC: MULTI has none there.
    #[must_use]
    pub fn reply_place(&self, step: usize) -> usize {
        self.place(step).saturating_sub(1)
    }

    /// The places of our own commands before the first step: the mark.
    #[must_use]
    pub fn mark_places(&self) -> Range<usize> {
        1..self.places.first().copied().unwrap_or(1)
    }
}

/// How a key of the EXEC is marked.
#[derive(Debug)]
struct Mark {
    /// A command deleted the key by name.
    was_deleted: bool,
    /// A command deleted the key by name, or surely left it there: if it is absent at the end, it was deleted.
    was_decided: bool,
    last: Presence,
    has_companion: bool,
    is_stream: bool,
    fields: BTreeSet<Bytes>,
}

/// Plans the EXEC of `steps` under `token`.
#[must_use]
pub fn exec(steps: &[Step], token: &str) -> Exec {
    let marks = marks(steps);
    let mut commands = vec![Command::new(["MULTI"])];
    commands.extend(mark_command(&marks, token));
    let mut places = Vec::with_capacity(steps.len());
    for step in steps {
        commands.extend(step.touches.iter().filter_map(push_command));
        places.push(commands.len());
        commands.push(step.command.clone());
    }
    commands.extend(settle_command(&marks, token));
    commands.push(Command::new(["EXEC"]));
    Exec { commands, places }
}

/// Plans the one script that stands in for the EXEC of `steps` where Redis is full: it queues nothing then (W2).
///
/// What pushes to a log needs memory and is refused, so no counter has to be raised. What would surely leave its key there
/// may be refused as well, so only a command that deletes by name decides.
#[must_use]
pub fn full(steps: &[Step], token: &str) -> Command {
    let marks = marks(steps);
    let count = Bytes::from(marks.len().to_string());
    let mut keys: Vec<&[u8]> = vec![OUTBOX.as_bytes(), NOTE.as_bytes()];
    let mut args = vec![Bytes::copy_from_slice(token.as_bytes()), count];
    for (key, mark) in &marks {
        keys.push(key.as_bytes());
        args.extend(mark_args(mark, Presence::Unsure));
    }
    for (key, mark) in &marks {
        keys.push(key.as_bytes());
        args.push(Bytes::from_static(if mark.was_deleted { b"d" } else { b"-" }));
    }
    for step in steps {
        args.push(step.command.0.len().to_string().into());
        args.extend(step.command.0.iter().cloned());
    }
    let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
    script::FULL.eval(&keys, &args)
}

/// How many entries `steps` push to each log.
#[must_use]
pub fn pushes(steps: &[Step]) -> BTreeMap<Key, usize> {
    let mut pushes = BTreeMap::new();
    for MirroredTouch { touch, kind } in steps.iter().flat_map(|step| &step.touches) {
        if let (Layout::Log, Touched::Pushed { count, .. }) = (kind.layout, &touch.touched) {
            *pushes.entry(touch.key.clone()).or_default() += count;
        }
    }
    pushes
}

/// Why no mark can follow this touch (G2): a list that is a log is rewritten, or pushed at its other end.
#[must_use]
pub fn unverifiable(touch: &MirroredTouch) -> Option<&'static str> {
    let side = touch.kind.log.map(|log| log.push)?;
    match (&touch.touch.touched, side) {
        (Touched::Rewritten, PushSide::Left | PushSide::Right) => Some("a log was rewritten in its middle"),
        (Touched::Pushed { end: End::Left, .. }, PushSide::Right)
        | (Touched::Pushed { end: End::Right, .. }, PushSide::Left) => Some("a log was pushed at its other end"),
        _ => None,
    }
}

fn marks(steps: &[Step]) -> BTreeMap<&Key, Mark> {
    let mut marks: BTreeMap<&Key, Mark> = BTreeMap::new();
    for MirroredTouch { touch, kind } in steps.iter().flat_map(|step| &step.touches) {
        let is_stream = kind.log.is_some_and(|log| log.push == PushSide::Stream);
        let has_companion = is_stream || kind.layout == Layout::Collection;
        let mark = marks.entry(&touch.key).or_insert_with(|| Mark {
            was_deleted: false,
            was_decided: false,
            last: touch.presence,
            has_companion,
            is_stream,
            fields: BTreeSet::new(),
        });
        mark.last = touch.presence;
        mark.was_deleted |= touch.presence == Presence::Deleted;
        mark.was_decided |= touch.presence != Presence::Unsure;
        if has_companion {
            mark.fields.extend(companion_fields(&touch.touched, kind.layout));
        }
    }
    marks
}

/// What the companion notes of a touch: `*` the whole, `h` the header, `e` and a name for an element (W3).
fn companion_fields(touched: &Touched, layout: Layout) -> Vec<Bytes> {
    let whole = || vec![Bytes::from_static(b"*")];
    match touched {
        Touched::Elements(names) if names.len() <= ELEMENTS_MARKED_MAX => {
            names.iter().map(|name| [b"e", name.as_ref()].concat().into()).collect()
        }
        Touched::Header if layout == Layout::Collection => vec![Bytes::from_static(b"h")],
        Touched::Header | Touched::Appended if layout == Layout::Log => Vec::new(),
        Touched::Elements(_)
        | Touched::Whole
        | Touched::Header
        | Touched::Appended
        | Touched::Pushed { .. }
        | Touched::Rewritten => whole(),
    }
}

fn mark_command(marks: &BTreeMap<&Key, Mark>, token: &str) -> Option<Command> {
    if marks.is_empty() {
        return None;
    }
    let needs_script = |mark: &Mark| mark.has_companion || mark.last == Presence::Unsure;
    if marks.values().any(needs_script) {
        return Some(mark_script(marks, token));
    }
    let mut parts = vec![Bytes::from_static(b"HMSET"), Bytes::from_static(OUTBOX.as_bytes())];
    for (key, mark) in marks {
        parts.push(Bytes::copy_from_slice(key.as_bytes()));
        let bit = if mark.last == Presence::Deleted { "!" } else { "" };
        parts.push(format!("{token}{bit}").into());
    }
    Some(Command(parts))
}

fn mark_script(marks: &BTreeMap<&Key, Mark>, token: &str) -> Command {
    let mut keys: Vec<&[u8]> = vec![OUTBOX.as_bytes(), NOTE.as_bytes()];
    let mut args: Vec<Bytes> = vec![Bytes::copy_from_slice(token.as_bytes())];
    for (key, mark) in marks {
        keys.push(key.as_bytes());
        args.extend(mark_args(mark, mark.last));
    }
    let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
    script::MARK.eval(&keys, &args)
}

/// What the script takes of one key: flags, the number of companion fields, and these.
fn mark_args(mark: &Mark, presence: Presence) -> Vec<Bytes> {
    let mut flags = String::new();
    flags.push_str(if presence == Presence::Deleted { "g" } else { "-" });
    flags.push_str(if presence == Presence::Unsure { "n" } else { "-" });
    flags.push_str(if mark.has_companion { "c" } else { "-" });
    flags.push_str(if mark.is_stream { "s" } else { "-" });
    let mut args = vec![flags.into(), mark.fields.len().to_string().into()];
    args.extend(mark.fields.iter().cloned());
    args
}

fn settle_command(marks: &BTreeMap<&Key, Mark>, token: &str) -> Option<Command> {
    let mut keys: Vec<&[u8]> = vec![OUTBOX.as_bytes(), NOTE.as_bytes()];
    let mut args: Vec<&[u8]> = vec![token.as_bytes()];
    for (key, mark) in marks.iter().filter(|(_, mark)| mark.last == Presence::Unsure) {
        keys.push(key.as_bytes());
        args.push(if mark.was_decided { b"d" } else { b"-" });
    }
    (args.len() > 1).then(|| script::SETTLE.eval(&keys, &args))
}

fn push_command(MirroredTouch { touch, kind }: &MirroredTouch) -> Option<Command> {
    match (&touch.touched, kind.layout) {
        (Touched::Pushed { count, creates, .. }, Layout::Log) => {
            let count = count.to_string();
            let creates: &[u8] = if *creates { b"1" } else { b"0" };
            Some(script::PUSH.eval(&[touch.key.as_bytes()], &[count.as_bytes(), creates]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalog::Catalog;
    use crate::model::command::effect::touches;

    fn step(line: &str, positions: &[usize]) -> Step {
        let catalog = Catalog::embedded();
        let command = Command::new(line.split(' ').map(|part| part.as_bytes().to_vec()));
        let mirrored = |touch: Touch| MirroredTouch { kind: catalog.kind_of(touch.key.as_bytes()).clone(), touch };
        Step { touches: touches(&command, positions).into_iter().map(mirrored).collect(), command }
    }

    fn names(exec: &Exec) -> Vec<String> {
        exec.commands.iter().map(Command::name).collect()
    }

    #[test]
    fn the_mark_stands_first_and_once_for_all_writes() {
        let user = "user:0123456789abcdef0123456789abcdef";
        let steps = [step(&format!("SET {user} v"), &[1]), step(&format!("SET {user} w"), &[1])];
        let exec = exec(&steps, "1-a-1");
        assert_eq!(names(&exec), ["MULTI", "HMSET", "SET", "SET", "EXEC"]);
        assert_eq!((exec.place(1), exec.reply_place(1)), (3, 2));
        assert_eq!(exec.commands[1].0[3], "1-a-1");
    }

    #[test]
    fn the_last_command_on_a_key_decides_its_bit() {
        let user = "user:0123456789abcdef0123456789abcdef";
        let bit = |lines: &[&str]| {
            let steps: Vec<Step> = lines.iter().map(|line| step(&line.replace("K", user), &[1])).collect();
            exec(&steps, "t").commands[1].0[3].clone()
        };
        assert_eq!(bit(&["DEL K"]), "t!");
        assert_eq!(bit(&["DEL K", "SET K v"]), "t");
        assert_eq!(bit(&["SET K v", "DEL K"]), "t!");
    }

    #[test]
    fn a_command_that_may_leave_the_key_absent_is_settled_after_it() {
        let user = "user:0123456789abcdef0123456789abcdef";
        let steps = [step(&format!("EXPIRE {user} 10"), &[1])];
        assert_eq!(names(&exec(&steps, "t")), ["MULTI", "EVAL", "EXPIRE", "EVAL", "EXEC"]);
    }

    #[test]
    fn a_huge_write_to_a_collection_marks_it_whole() {
        let members: Vec<String> = (0..=ELEMENTS_MARKED_MAX).map(|n| n.to_string()).collect();
        let touched = Touched::Elements(members.into_iter().map(Bytes::from).collect());
        assert_eq!(companion_fields(&touched, Layout::Collection), ["*"]);
    }

    #[test]
    fn a_carried_command_is_not_marked() {
        let steps = [Step { command: Command::new(["GET", "x"]), touches: Vec::new() }];
        assert_eq!(names(&exec(&steps, "t")), ["MULTI", "GET", "EXEC"]);
    }
}
