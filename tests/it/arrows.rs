//! The layers: doors -> dual -> stores -> model, with jobs beside doors. Reads the sources and names every arrow that points
//! the wrong way, because a rule that nobody checks is a wish.

use std::fs;
use std::path::{Path, PathBuf};

/// What a layer may name of this crate, besides itself. What is not listed is forbidden.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("telemetry", &["model", "settings"]),
    ("settings", &["model"]),
    ("shutdown", &[]),
    ("failure", &["settings"]),
    ("client", &[]),
    ("stores", &["model", "telemetry", "settings"]),
    ("dual", &["stores", "model", "telemetry", "settings"]),
    ("jobs", &["dual", "stores", "model", "telemetry", "settings", "shutdown"]),
    // A door decodes, calls the engine once, and encodes: it never sees a store.
    ("doors", &["jobs", "dual", "model", "telemetry", "settings", "shutdown"]),
    ("dev", &["model", "telemetry", "settings", "shutdown"]),
    // The traffic and its final comparison are a second opinion: they must not lean on the engine they judge.
    ("traffic", &["client", "dev", "stores", "model", "telemetry", "settings", "shutdown"]),
    ("app", &["doors", "jobs", "dual", "stores", "model", "telemetry", "settings", "shutdown", "dev", "failure"]),
    ("reload", &["app", "dual", "model", "settings", "shutdown"]),
    (
        "cli",
        &[
            "app",
            "failure",
            "reload",
            "client",
            "doors",
            "jobs",
            "dual",
            "stores",
            "model",
            "telemetry",
            "settings",
            "shutdown",
            "dev",
            "traffic",
        ],
    ),
];

/// The folder that holds Cargo.toml.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file under `folder`, as a path relative to the project, in order.
pub(crate) fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![project().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(project()).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

/// The modules a file stands in: `src/dual/write.rs` is `[dual, write]`, `src/dual/mod.rs` is `[dual]`.
fn module_of(path: &Path) -> Vec<String> {
    let below_src = path.strip_prefix("src").unwrap().with_extension("");
    let mut names: Vec<String> = below_src.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|name| name == "mod") {
        names.pop();
    }
    names
}

/// The source without comments and without the test module at its end, line for line.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        let starts_tests = line.trim() == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod "));
        if starts_tests {
            break;
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

/// The identifiers that stand directly behind a path prefix: `dual::flags` gives `dual`, `{dual::flags, stores}` gives both.
fn heads(after_prefix: &str) -> Vec<String> {
    let identifier = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = after_prefix.strip_prefix('{') else {
        return vec![identifier(after_prefix)];
    };
    let mut depth = 0;
    let mut heads = Vec::new();
    let mut is_start = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if character.is_whitespace() => {}
            _ if is_start => {
                heads.push(identifier(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    heads
}

/// Every place where `code` names a module at the top of the crate: (line, module).
fn references(code: &str, depth: usize) -> Vec<(usize, String)> {
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", to_root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = &code[..at];
            let continues_a_path = before.ends_with("::") || before.ends_with('$');
            let ends_an_identifier = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if continues_a_path || ends_an_identifier {
                continue;
            }
            let line = before.matches('\n').count() + 1;
            found.extend(heads(&code[at + prefix.len()..]).into_iter().map(|head| (line, head)));
        }
    }
    found.sort();
    found
}

/// The arrows of one file that point the wrong way.
fn violations(path: &str, source: &str) -> Vec<String> {
    let module = module_of(Path::new(path));
    let layer = module.first().map_or("", String::as_str);
    if layer == "main" || layer == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!("{path}: `{layer}` has no place among the layers: give it one in tests/it/arrows.rs")];
    };
    references(&code_of(source), module.len())
        .into_iter()
        .filter(|(_, head)| head != layer && LAYERS.iter().any(|(name, _)| name == head))
        .filter(|(_, head)| !allowed.contains(&head.as_str()))
        .map(|(line, head)| format!("{path}:{line}: {layer} must not name {head}"))
        .collect()
}

#[test]
fn every_arrow_points_down() {
    let wrong: Vec<String> = rust_files("src")
        .iter()
        .flat_map(|path| violations(&path.to_string_lossy(), &fs::read_to_string(project().join(path)).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "arrows go doors -> dual -> stores -> model:\n{}", wrong.join("\n"));
}

#[test]
fn the_checker_sees_an_arrow_that_points_up() {
    let wrong = [
        ("src/model/key.rs", "use crate::telemetry::Metrics;"),
        ("src/stores/redis/mod.rs", "use crate::dual::Engine;"),
        ("src/stores/redis/capture.rs", "fn f() { crate::dual::flags::now(); }"),
        ("src/dual/mod.rs", "use crate::doors::http;"),
        ("src/dual/mod.rs", "use super::doors::http;"),
        ("src/dual/write.rs", "use super::super::jobs;"),
        ("src/dual/write.rs", "use crate::{\n    model::key::Key,\n    cli,\n};"),
        ("src/doors/http/mod.rs", "use crate::{dual::{flags, Engine}, stores::redis};"),
        ("src/telemetry/metrics.rs", "fn f(_: &crate::dual::Engine) {}"),
        ("src/traffic/compare.rs", "use crate::dual::verdict;"),
        ("src/app.rs", "use super::cli;"),
        ("src/helpers.rs", ""),
    ];
    for (path, line) in wrong {
        assert_eq!(violations(path, line).len(), 1, "{path}: {line}");
    }
}

#[test]
fn the_checker_lets_right_arrows_pass() {
    let right = [
        ("src/doors/http/mod.rs", "use crate::dual::Engine;\nuse crate::model::key::Key;"),
        ("src/doors/admin/mod.rs", "use super::problem::Problem;\nuse crate::doors::guard;"),
        ("src/dual/write.rs", "use super::flags;\nuse crate::stores::redis::Redis;"),
        ("src/stores/redis/mod.rs", "// As crate::dual says.\nuse redis::aio;"),
        ("src/stores/redis/mod.rs", "/// See [`crate::dual::Engine`].\nfn f() {}"),
        ("src/stores/redis/mod.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::dev::servers;\n}"),
        ("src/model/flag.rs", "macro_rules! m { () => { $crate::dual::x() } }"),
        ("src/cli/serve.rs", "use crate::{app, doors, traffic};"),
    ];
    for (path, lines) in right {
        assert_eq!(violations(path, lines), Vec::<String>::new(), "{path}: {lines}");
    }
}

#[test]
fn the_table_of_layers_has_no_circle() {
    // A layer may only name layers that are already placed: if none can be placed any more, the rest is a circle.
    let mut placed: Vec<&str> = Vec::new();
    while placed.len() < LAYERS.len() {
        let next = LAYERS
            .iter()
            .find(|(name, allowed)| !placed.contains(name) && allowed.iter().all(|lower| placed.contains(lower)));
        let (name, _) = next.unwrap_or_else(|| panic!("a circle among the layers that are not in {placed:?}"));
        placed.push(name);
    }
}
