//! The catalog against the relay's keys, recorded and made up, and against files that are broken.

use std::fs::File;
use std::path::Path;

use flate2::read::GzDecoder;
use parallax::model::catalog::{Catalog, Policy, UNMATCHED};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const TABLE: &str = include_str!("../data/kinds-of-recorded-keys.txt");
const KEYS_OF_EACH_SHAPE: usize = 20;
const SEED: u64 = 20_261_123;

/// A line of the table: a key with placeholders, and its kind.
struct Line {
    shape: &'static str,
    kind: &'static str,
}

fn table() -> Vec<Line> {
    TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace();
            Line { shape: words.next().unwrap(), kind: words.next().unwrap() }
        })
        .collect()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `text` has the form of `mask`, in which `9` stands for any digit.
fn is_like(text: &str, mask: &str) -> bool {
    text.len() == mask.len()
        && text.bytes().zip(mask.bytes()).all(
            |(byte, mask)| {
                if mask == b'9' { byte.is_ascii_digit() } else { byte == mask }
            },
        )
}

fn fits(segment: &str, placeholder: &str) -> bool {
    match placeholder {
        "{uuid}" => segment.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && is_hex(&segment.replace('-', ""), 32),
        "{hex32}" => is_hex(segment, 32),
        "{hex64}" => is_hex(segment, 64),
        "{date}" => is_like(segment, "9999-99-99"),
        "{month}" => is_like(segment, "9999-99"),
        "{week}" => is_like(segment, "9999-99-99T99"),
        "{hour}" => is_like(segment, "99"),
        "{digits}" => is_digits(segment),
        "{word}" => !segment.is_empty(),
        literal => segment == literal,
    }
}

fn has_shape(key: &str, shape: &str) -> bool {
    let (segments, placeholders) = (key.split(':'), shape.split(':'));
    segments.clone().count() == placeholders.clone().count()
        && segments.zip(placeholders).all(|(segment, placeholder)| fits(segment, placeholder))
}

/// How many segments of `shape` are given. Of several shapes that fit a key the one with the most is meant.
fn literals(shape: &str) -> usize {
    shape.split(':').filter(|segment| !segment.starts_with('{')).count()
}

fn made_up(shape: &str, random: &mut StdRng) -> String {
    let hex = |random: &mut StdRng, length: usize| -> String {
        (0..length).map(|_| char::from_digit(random.random_range(0..16), 16).unwrap()).collect()
    };
    let segments = shape.split(':').map(|placeholder| match placeholder {
        "{uuid}" => [8, 4, 4, 4, 12].map(|length| hex(random, length)).join("-"),
        "{hex32}" => hex(random, 32),
        "{hex64}" => hex(random, 64),
        "{date}" => format!(
            "20{:02}-{:02}-{:02}",
            random.random_range(0..99),
            random.random_range(1..13),
            random.random_range(1..29)
        ),
        "{month}" => format!("20{:02}-{:02}", random.random_range(0..99), random.random_range(1..13)),
        "{week}" => format!("2026-11-{:02}T{:02}", random.random_range(1..29), random.random_range(0..24)),
        "{hour}" => format!("{:02}", random.random_range(0..24)),
        "{digits}" => random.random_range(0..i64::MAX).to_string(),
        "{word}" => format!("名前 {}-{}", hex(random, 4), "x".repeat(random.random_range(0..300))),
        literal => literal.to_owned(),
    });
    segments.collect::<Vec<_>>().join(":")
}

#[test]
fn every_made_up_key_of_the_relay_is_of_the_kind_that_the_table_says() {
    let (catalog, mut random) = (Catalog::embedded(), StdRng::seed_from_u64(SEED));
    for line in table() {
        for _ in 0..KEYS_OF_EACH_SHAPE {
            let key = made_up(line.shape, &mut random);
            let kind = catalog.kind_of(key.as_bytes());
            assert_eq!(kind.name, line.kind, "{key}");
            assert_eq!(kind.key_of(&kind.id_of(key.as_bytes())).unwrap().as_bytes(), key.as_bytes());
        }
    }
}

#[test]
fn the_table_and_the_catalog_name_the_same_kinds() {
    let catalog = Catalog::embedded();
    let lines = table();
    for kind in catalog.kinds().iter().filter(|kind| kind.name != UNMATCHED) {
        assert!(lines.iter().any(|line| line.kind == kind.name), "no key of kind {}", kind.name);
    }
    for line in lines {
        assert!(catalog.by_name(line.kind).is_some(), "no kind {}", line.kind);
    }
}

#[test]
fn every_recorded_key_is_of_the_kind_that_the_table_says() {
    // A test may ask where its recording lies; the program itself asks in settings alone.
    #[expect(clippy::disallowed_methods, reason = "the recording is an input of this test, not a setting")]
    let Ok(folder) = std::env::var("PARALLAX_RECORDING") else {
        println!("skipped: PARALLAX_RECORDING names no folder with a recording");
        return;
    };
    let file = File::open(Path::new(&folder).join("relay-keyspace.json.gz")).unwrap();
    let keyspace: serde_json::Map<String, serde_json::Value> = serde_json::from_reader(GzDecoder::new(file)).unwrap();
    assert!(keyspace.len() > 500, "the recording holds {} keys", keyspace.len());
    let (catalog, lines) = (Catalog::embedded(), table());
    for key in keyspace.keys() {
        let fitting: Vec<_> = lines.iter().filter(|line| has_shape(key, line.shape)).collect();
        let narrowest = fitting.iter().map(|line| literals(line.shape)).max();
        let mut kinds: Vec<_> =
            fitting.iter().filter(|line| Some(literals(line.shape)) == narrowest).map(|line| line.kind).collect();
        kinds.dedup();
        assert_eq!(kinds, [catalog.kind_of(key.as_bytes()).name.as_str()], "{key}");
    }
}

#[test]
fn what_the_relay_asks_for_alone_stays_in_redis() {
    let catalog = Catalog::embedded();
    for key in
        ["session:abc", "concurrency:k", "rate_limit:cost:k", "user:index:empty", "lock:init:x", "apikey:tmp:tag:1"]
    {
        assert_eq!(catalog.kind_of(key.as_bytes()).policy, Policy::Ephemeral, "{key}");
    }
    let cost = catalog.kind_of(b"usage:cost:total:k");
    assert!(cost.is_mirrored() && cost.is_readable() && cost.numbers_by_value);
    assert!(!catalog.kind_of(b"apikey:hash_map").is_readable());
    assert!(!catalog.kind_of(b"usage:records:k").is_readable());
}

/// A file of one family with these kinds.
fn file_of(kinds: &[&str]) -> String {
    format!("[[family]]\npolicy = \"mirror\"\nkinds = [\n{}\n]\n", kinds.join(",\n"))
}

#[track_caller]
fn assert_refused(text: &str, expected: &[&str]) {
    let errors = Catalog::parse("my.toml", text).expect_err("the catalog is broken");
    let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n  is not\n{expected}");
    }
}

#[test]
fn a_pattern_that_can_never_match_is_refused_with_file_line_and_reason() {
    let broken = file_of(&[
        r#"{ name = "a", pattern = "" }"#,
        r#"{ name = "b", pattern = "x:{id}y" }"#,
        r#"{ name = "c", pattern = "x:{id}:{id}" }"#,
        r#"{ name = "d", pattern = "x:{id:uid}" }"#,
    ]);
    assert_refused(
        &broken,
        &[
            "my.toml:4: pattern `` is empty and can never match",
            "my.toml:5: pattern `x:{id}y` can never match: `{id}` takes what follows it",
            "my.toml:6: pattern `x:{id}:{id}` names the part `id` twice",
            "my.toml:7: pattern `x:{id:uid}` has a part of the unknown type `uid`",
        ],
    );
}

#[test]
fn a_kind_whose_keys_an_earlier_one_takes_is_refused() {
    let same = file_of(&[r#"{ name = "a", pattern = "x:{id}" }"#, r#"{ name = "b", pattern = "x:{other}" }"#]);
    assert_refused(
        &same,
        &["my.toml:5: pattern `x:{other}` can never match: `x:{id}` of kind `a` on line 4 takes its keys"],
    );
    let wider = file_of(&[r#"{ name = "a", pattern = "{all:rest}" }"#, r#"{ name = "b", pattern = "x:{day:date}" }"#]);
    assert_refused(&wider, &["my.toml:5: pattern `x:{day:date}` can never match"]);
    let narrower = file_of(&[r#"{ name = "a", pattern = "x:{day:date}" }"#, r#"{ name = "b", pattern = "x:{id}" }"#]);
    assert!(Catalog::parse("my.toml", &narrower).is_ok());
}

#[test]
fn unknown_words_and_fields_are_refused_all_at_once() {
    let broken = file_of(&[
        r#"{ name = "a", pattern = "a", table = "nowhere" }"#,
        r#"{ name = "b", pattern = "b", policy = "maybe", colour = "red" }"#,
        r#"{ name = "c", pattern = "c", retain = "0d" }"#,
        r#"{ name = "d", pattern = "d", layout = "heap" }"#,
        r#"{ name = "e", pattern = "e", flag = { sample_rate = 2, stage = "live" } }"#,
    ]) + "\n[other]\n";
    assert_refused(
        &broken,
        &[
            "my.toml:4: unknown table `nowhere`: one of api_keys, accounts,",
            "my.toml:5: unknown field `colour`",
            "my.toml:5: unknown policy `maybe`: one of mirror, ephemeral, derived",
            "my.toml:6: unknown retain `0d`: one of expire, <n>d, forever",
            "my.toml:7: unknown layout `heap`: one of document, collection, log",
            "my.toml:8: flag: sample_rate must be 0 to 1",
            "my.toml:8: unknown field `stage`",
            "my.toml:11: unknown field `other`",
        ],
    );
}

#[test]
fn names_are_words_and_taken_once() {
    let broken = file_of(&[
        r#"{ name = "a", pattern = "a" }"#,
        r#"{ name = "a", pattern = "b" }"#,
        r#"{ name = "unmatched", pattern = "c" }"#,
        r#"{ name = "D d", pattern = "d" }"#,
        r#"{ pattern = "e" }"#,
        r#"{ name = "f" }"#,
    ]);
    assert_refused(
        &broken,
        &[
            "my.toml:5: the name `a` is taken by the kind on line 4",
            "my.toml:6: the name `unmatched` is taken",
            "my.toml:7: the name `D d` must be lower-case",
            "my.toml:8: a kind needs `name`",
            "my.toml:9: a kind needs `pattern`",
        ],
    );
}

#[test]
fn a_layout_and_its_table_belong_together() {
    let broken = file_of(&[
        r#"{ name = "a", pattern = "a", layout = "collection", table = "users" }"#,
        r#"{ name = "b", pattern = "b", table = "elements" }"#,
        r#"{ name = "c", pattern = "c", layout = "log" }"#,
        r#"{ name = "d", pattern = "d", push = "left" }"#,
        r#"{ name = "e", pattern = "e", layout = "log", push = "left", keep = 0 }"#,
    ]);
    assert_refused(
        &broken,
        &[
            "my.toml:4: table `users` does not hold layout `collection`",
            "my.toml:5: table `elements` does not hold layout `document`",
            "my.toml:6: a log must say where it grows",
            "my.toml:7: `push` is for layout `log` only",
            "my.toml:8: a log must say where it grows",
        ],
    );
}

#[test]
fn a_file_that_is_no_toml_names_the_line() {
    assert_refused("[unmatched]\npolicy = mirror\n", &["my.toml:2: "]);
}
