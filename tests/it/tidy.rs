//! Small promises that every file keeps: a header that says why it exists, a length one can read, no path of somebody's
//! machine, no loose ends without a number. They are tests because reviewers tire and tests do not.

use std::fs;
use std::path::{Path, PathBuf};

use crate::arrows::{project, rust_files};

const LINES_MAX: usize = 400;

/// Folders that hold nothing of ours.
const SKIPPED_FOLDERS: &[&str] = &["target", ".git", "node_modules"];

/// Every text file of the project, as paths relative to it.
fn text_files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![project().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_skipped = SKIPPED_FOLDERS.contains(&name.as_str());
            if path.is_dir() && !is_skipped {
                folders.push(path);
            } else if path.is_file() && !is_skipped && name != "Cargo.lock" {
                let relative = path.strip_prefix(project()).unwrap().to_path_buf();
                if let Ok(text) = fs::read_to_string(&path) {
                    found.push((relative, text));
                }
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = rust_files("src");
    files.extend(rust_files("tests"));
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(project().join(&path)).unwrap())).collect()
}

/// The `//!` lines at the top, or nothing.
fn header(source: &str) -> String {
    let lines = source.lines().skip_while(|line| line.starts_with("#![") || line.is_empty());
    lines.take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n")
}

/// Whether `text` has a path below `/{folder}/`, and not as a part of a longer word or of a relative path.
fn names_a_folder_of_the_machine(text: &str, folder: &str) -> bool {
    let path = format!("/{folder}/");
    text.match_indices(&path).any(|(at, _)| {
        let is_absolute =
            !text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '}' | '/'));
        is_absolute && text[at + path.len()..].starts_with(|c: char| c.is_alphabetic() || c == '.')
    })
}

/// A reminder without the number of the issue that will settle it.
fn has_a_loose_end(line: &str) -> bool {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME")];
    words.iter().any(|word| {
        line.split_once(word).is_some_and(|(_, rest)| {
            let number = rest.strip_prefix("(#").map(|rest| rest.chars().take_while(char::is_ascii_digit).count());
            number.is_none_or(|digits| digits == 0)
        })
    })
}

/// `path:line: text` of every line that `is_wrong`.
fn lines_where(files: &[(PathBuf, String)], is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in files {
        for (index, line) in text.lines().enumerate().filter(|(_, line)| is_wrong(line)) {
            wrong.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
        }
    }
    wrong
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, source)| header(source).is_empty()).map(|(p, _)| p).collect();
    assert!(silent.is_empty(), "without a //! header: {silent:?}");
}

#[test]
fn a_long_file_explains_itself() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(_, source)| source.lines().count() > LINES_MAX && !header(source).contains("400 lines"))
        .map(|(path, source)| format!("{}: {} lines", path.display(), source.lines().count()))
        .collect();
    assert!(long.is_empty(), "split it, or say in the header why it is over 400 lines: {long:#?}");
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    let folders = ["work", "farm", "root", "home", "Users"];
    let wrong = lines_where(&text_files(), |line| folders.iter().any(|name| names_a_folder_of_the_machine(line, name)));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_loose_end_without_an_issue_number() {
    let wrong = lines_where(&text_files(), has_a_loose_end);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_test_is_switched_off() {
    let attributes = [concat!("#[ig", "nore"), concat!("#[should", "_panic")];
    let wrong = lines_where(&sources(), |line| attributes.iter().any(|attribute| line.contains(attribute)));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_relative_link_in_the_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in text_files() {
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let folder = project().join(path.parent().unwrap_or(Path::new("")));
        let links = text.split("](").skip(1).map(|link| link.split(')').next().unwrap_or_default());
        let pictures = text.split("<img src=\"").skip(1).map(|link| link.split('"').next().unwrap_or_default());
        for link in links.chain(pictures) {
            let target = link.split('#').next().unwrap_or_default();
            let is_relative = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            if is_relative && !folder.join(target).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn make_help_lists_every_target() {
    let makefile = fs::read_to_string(project().join("Makefile")).unwrap();
    let is_target = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(':');
    let silent: Vec<&str> = makefile.lines().filter(is_target).filter(|line| !line.contains(" ## ")).collect();
    assert!(silent.is_empty(), "targets without a help text: {silent:?}");
}

#[test]
fn what_the_readmes_say_that_a_verification_finds_is_what_was_measured() {
    let read = |path: &str| fs::read_to_string(project().join(path)).unwrap();
    let results = read("docs/results/verifier.txt");
    let sums: Vec<&str> =
        results.lines().find_map(|line| line.strip_prefix("all ")).unwrap().split_whitespace().collect();
    let [planted, ours, by_length, by_type] = sums[..] else { panic!("{sums:?}") };
    for path in ["README.md", "README.zh-CN.md"] {
        let text = read(path);
        let of_planted = |line: &&str| line.ends_with(&format!("| {planted} |"));
        let told: Vec<&str> =
            text.lines().filter(of_planted).map(|line| line.split('|').nth(2).unwrap().trim()).collect();
        assert_eq!(told, [ours, by_length, by_type], "{path}, found of {planted}");
    }
}

#[test]
fn the_checks_see_what_they_are_for() {
    let path = |folder: &str| format!("see /{folder}/somewhere");
    assert!(names_a_folder_of_the_machine(&path("root"), "root"));
    assert!(!names_a_folder_of_the_machine("https://example.org/root/page", "root"));
    assert!(!names_a_folder_of_the_machine("target/root/page", "root"));
    let reminder = concat!("TO", "DO");
    assert!(has_a_loose_end(&format!("// {reminder}: later")));
    assert!(has_a_loose_end(&format!("// {reminder}(#): later")));
    assert!(!has_a_loose_end(&format!("// {reminder}(#12): later")));
    assert_eq!(header("fn main() {}\n//! late"), "");
    assert_eq!(header("#![forbid(unsafe_code)]\n\n//! Early.\nfn main() {}"), "//! Early.");
}
