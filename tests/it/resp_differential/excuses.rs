//! What may differ between two Redises that were told the same, and what the door refuses: two closed tables, each line
//! with its reason. Whatever stands in neither is the same byte for byte.

use bytes::Bytes;

use super::wire::{Frame, Words};

/// How two replies may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excuse {
    /// The elements stand in any order: Redis walks hash tables whose seed is drawn at the start.
    Order,
    /// As `Order`, where two elements after one another belong together.
    Pairs,
    /// As `Order`, where the page is the last one; others hold what the hash table's order brings.
    Page,
    /// As `Pairs`, and only where a hash is answered by Postgres or may be no listpack.
    Fields,
    /// Whole numbers may be so far apart: time went on.
    Near(i64),
    /// As `Near`, or one is nothing: what has expired is taken away by and by.
    NearOrGone(i64),
    /// Only form and types are the same: drawn by lot, or said of one server.
    Form,
    /// Only the kind of the reply is the same: a server tells of itself.
    Kind,
    /// All but the number after `id`, which counts connections.
    Id,
}

/// Above this many elements a hash is a hash table and not a listpack.
const LISTPACK_MAX: usize = 128 * 2;
/// A hash that ever held a longer field or value is a hash table from then on.
pub(crate) const LISTPACK_BYTES_MAX: usize = 64;

const EXCUSES: &[(&str, Excuse, &str)] = &[
    // Time.
    ("TTL", Excuse::Near(1), "counts down"),
    ("PTTL", Excuse::Near(2_000), "counts down"),
    ("EXPIRETIME", Excuse::Near(2), "set relative to now"),
    ("PEXPIRETIME", Excuse::Near(2_000), "set relative to now"),
    ("TIME", Excuse::Form, "is the time"),
    ("LASTSAVE", Excuse::Form, "is when the server started"),
    ("DBSIZE", Excuse::Near(4), "counts what has expired until it is taken away"),
    ("OBJECT IDLETIME", Excuse::Near(600), "counts up, and a capture or a comparison is a look at the key"),
    ("OBJECT REFCOUNT", Excuse::Near(1), "counts what waits in the same EXEC too"),
    ("XADD *", Excuse::Form, "an id is made of the time"),
    ("XINFO STREAM", Excuse::Near(10_000), "tells when entries were delivered"),
    ("XINFO CONSUMERS", Excuse::Near(10_000), "tells for how long a consumer was idle"),
    ("XPENDING", Excuse::Near(10_000), "tells for how long an entry was idle"),
    // Lots.
    ("RANDOMKEY", Excuse::Kind, "drawn by lot"),
    ("SRANDMEMBER", Excuse::Form, "drawn by lot"),
    ("HRANDFIELD", Excuse::Form, "drawn by lot"),
    ("ZRANDMEMBER", Excuse::Form, "drawn by lot"),
    ("SPOP", Excuse::Order, "drawn by lot; the cases take all or nothing"),
    ("ACL GENPASS", Excuse::Form, "drawn by lot"),
    ("LOLWUT", Excuse::Kind, "drawn by lot"),
    // The order of hash tables.
    ("HGETALL", Excuse::Fields, "a map"),
    ("HKEYS", Excuse::Fields, "the keys of a map"),
    ("HVALS", Excuse::Fields, "the values of a map"),
    ("SMEMBERS", Excuse::Order, "a set"),
    ("SUNION", Excuse::Order, "a set"),
    ("SINTER", Excuse::Order, "a set"),
    ("SDIFF", Excuse::Order, "a set"),
    ("KEYS", Excuse::Order, "walks the keyspace"),
    ("SCAN", Excuse::Order, "walks the keyspace"),
    ("SSCAN", Excuse::Page, "walks a hash table"),
    ("HSCAN", Excuse::Page, "walks a hash table"),
    ("ZSCAN", Excuse::Page, "walks a hash table"),
    ("DUMP", Excuse::Form, "holds a hash table in its order"),
    ("ACL CAT", Excuse::Order, "walks the table of commands"),
    ("COMMAND", Excuse::Order, "walks the table of commands"),
    ("CONFIG GET", Excuse::Pairs, "walks the table of settings"),
    ("FUNCTION LIST", Excuse::Order, "walks the table of libraries"),
    // What a server tells of itself.
    ("HELLO", Excuse::Id, "numbers connections"),
    ("INFO", Excuse::Kind, "a server tells of itself"),
    ("CLIENT ID", Excuse::Form, "numbers connections"),
    ("CLIENT INFO", Excuse::Kind, "tells of a connection"),
    ("CLIENT LIST", Excuse::Kind, "tells of connections"),
    ("MEMORY STATS", Excuse::Kind, "a server tells of itself"),
    ("MEMORY DOCTOR", Excuse::Kind, "a server tells of itself"),
    ("MEMORY MALLOC-STATS", Excuse::Kind, "a server tells of itself"),
    ("MEMORY USAGE", Excuse::NearOrGone(512), "depends on what a hash table was before, and tells of what has expired"),
    ("SLOWLOG GET", Excuse::Kind, "a server tells of itself"),
    ("SLOWLOG LEN", Excuse::Form, "a server tells of itself"),
    ("LATENCY DOCTOR", Excuse::Kind, "a server tells of itself"),
    ("ACL LOG", Excuse::Kind, "tells of connections"),
];

/// In which order the fields of a short hash stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fields {
    /// As they were written: it is a listpack, and Redis answers.
    AsWritten,
    /// In any: Postgres may answer, or it may be a hash table.
    InAnyOrder,
}

/// Whether these two replies to the command are the same, but for what may differ.
pub(crate) fn agree(command: &Words, one: &Frame, other: &Frame, fields: Fields) -> bool {
    if one == other {
        return true;
    }
    match excuse(command) {
        None => false,
        // An error has no order and no time in it.
        Some(_) if one.mark() == b'-' || other.mark() == b'-' => false,
        Some(Excuse::Order) => sorted(one, 1) == sorted(other, 1),
        Some(Excuse::Page) if is_last(one) && is_last(other) => sorted(one, 1) == sorted(other, 1),
        Some(Excuse::Page) => one.mark() == other.mark(),
        Some(Excuse::Pairs) => sorted(one, 2) == sorted(other, 2),
        Some(Excuse::Fields) => {
            let is_map = one.mark() == b'%' || name_of(command) == "HGETALL";
            let may_differ = fields == Fields::InAnyOrder || length(one) > LISTPACK_MAX;
            may_differ && sorted(one, if is_map { 2 } else { 1 }) == sorted(other, if is_map { 2 } else { 1 })
        }
        Some(Excuse::Near(distance)) => near(one, other, distance),
        Some(Excuse::NearOrGone(distance)) => is_nothing(one) || is_nothing(other) || near(one, other, distance),
        Some(Excuse::Form) => form(one) == form(other),
        Some(Excuse::Kind) => one.mark() == other.mark(),
        Some(Excuse::Id) => without_id(one) == without_id(other),
    }
}

fn name_of(command: &Words) -> String {
    command.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase()).unwrap_or_default()
}

fn excuse(command: &Words) -> Option<Excuse> {
    let name = name_of(command);
    let second = command.get(1).map(|word| format!("{name} {}", String::from_utf8_lossy(word).to_ascii_uppercase()));
    let makes_an_id = |word: &Bytes| word.as_ref() == b"*" || word.ends_with(b"-*");
    EXCUSES
        .iter()
        .find(|(of, ..)| match *of {
            "XADD *" => name == "XADD" && command.iter().any(makes_an_id),
            of => of == name || second.as_deref() == Some(of),
        })
        .map(|(_, excuse, _)| *excuse)
}

/// Whether a scan ends with this page.
fn is_last(frame: &Frame) -> bool {
    matches!(frame, Frame::Many(_, Some(items)) if matches!(items.first(), Some(Frame::Blob(_, Some(zero))) if zero.as_ref() == b"0"))
}

fn length(frame: &Frame) -> usize {
    match frame {
        Frame::Many(_, Some(items)) => items.len(),
        Frame::Many(_, None) | Frame::Line(..) | Frame::Blob(..) => 0,
    }
}

/// The frame with its elements in one order, `size` of them together; maps by their pairs.
fn sorted(frame: &Frame, size: usize) -> Frame {
    match frame {
        Frame::Many(mark, Some(items)) => {
            let together = if *mark == b'%' { 2 } else { size };
            let items: Vec<Frame> = items.iter().map(|item| sorted(item, size)).collect();
            let mut groups: Vec<&[Frame]> = items.chunks(together).collect();
            groups.sort();
            Frame::Many(*mark, Some(groups.concat()))
        }
        Frame::Many(_, None) | Frame::Line(..) | Frame::Blob(..) => frame.clone(),
    }
}

fn is_nothing(frame: &Frame) -> bool {
    matches!(frame, Frame::Blob(b'$', None)) || frame.mark() == b'_'
}

fn near(one: &Frame, other: &Frame, distance: i64) -> bool {
    let number = |text: &Bytes| std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
    match (one, other) {
        (Frame::Line(b':', one), Frame::Line(b':', other)) => match (number(one), number(other)) {
            // What stands for "none" is not near to anything.
            (Some(one), Some(other)) => one >= 0 && other >= 0 && one.abs_diff(other) <= distance.unsigned_abs(),
            (Some(_) | None, _) => false,
        },
        (Frame::Many(mark, Some(one)), Frame::Many(other_mark, Some(other))) => {
            mark == other_mark
                && one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| near(one, other, distance))
        }
        (Frame::Line(..) | Frame::Blob(..) | Frame::Many(..), _) => one == other,
    }
}

/// The frame without what it says.
fn form(frame: &Frame) -> Frame {
    match frame {
        Frame::Line(mark, _) => Frame::Line(*mark, Bytes::new()),
        Frame::Blob(mark, text) => Frame::Blob(*mark, text.as_ref().map(|_| Bytes::new())),
        Frame::Many(mark, items) => Frame::Many(*mark, items.as_ref().map(|items| items.iter().map(form).collect())),
    }
}

fn without_id(frame: &Frame) -> Frame {
    let Frame::Many(mark, Some(items)) = frame else { return frame.clone() };
    let mut items = items.clone();
    let is_id = |item: &Frame| matches!(item, Frame::Blob(_, Some(name)) if name.as_ref() == b"id");
    if let Some(at) = items.iter().position(is_id) {
        items.remove(at + 1);
    }
    Frame::Many(*mark, Some(items))
}

#[test]
fn an_excuse_excuses_no_more_than_it_says() {
    use super::wire::words;
    let text = |text: &'static str| Frame::Blob(b'$', Some(text.into()));
    let many = |items: &[&'static str]| Frame::Many(b'*', Some(items.iter().map(|item| text(item)).collect()));
    let number = |number: i64| Frame::Line(b':', number.to_string().into());
    let by = |line: &str, one: Frame, other: Frame, fields| agree(&words(line), &one, &other, fields);
    assert!(by("SMEMBERS k", many(&["a", "b"]), many(&["b", "a"]), Fields::AsWritten));
    assert!(!by("SMEMBERS k", many(&["a", "b"]), many(&["b", "b"]), Fields::AsWritten));
    assert!(!by("LRANGE k 0 -1", many(&["a", "b"]), many(&["b", "a"]), Fields::InAnyOrder));
    assert!(by("HGETALL k", many(&["f", "1", "g", "2"]), many(&["g", "2", "f", "1"]), Fields::InAnyOrder));
    assert!(!by("HGETALL k", many(&["f", "1", "g", "2"]), many(&["g", "1", "f", "2"]), Fields::InAnyOrder));
    assert!(!by("HGETALL k", many(&["f", "1", "g", "2"]), many(&["g", "2", "f", "1"]), Fields::AsWritten));
    assert!(by("TTL k", number(99), number(100), Fields::AsWritten));
    assert!(!by("TTL k", number(-1), number(0), Fields::AsWritten));
    assert!(!by("TTL k", number(90), number(100), Fields::AsWritten));
    assert!(by("MEMORY USAGE k", number(88), Frame::Blob(b'$', None), Fields::AsWritten));
    assert!(!by("MEMORY USAGE k", number(88), number(8_800), Fields::AsWritten));
    assert!(by("XADD k * f v", text("1-1"), text("2-1"), Fields::AsWritten));
    assert!(!by("XADD k 1-1 f v", text("1-1"), text("2-1"), Fields::AsWritten));
    assert!(!by("GET k", text("1"), text("2"), Fields::InAnyOrder));
}
