//! The reference of the settings, `docs/configuration.md`: written from the definitions and from what the reader takes, so
//! that it cannot say anything else than the program does.

use std::collections::BTreeMap;

use crate::settings::build;
use crate::settings::definitions::{DEFINITIONS, Definition, Secrecy};
use crate::settings::reader::Reader;
use crate::settings::sources::{self, Inputs};

const HEAD: &str = "\
<!-- Written by `make references` from src/settings: edit the definitions there, not this page. -->

# Settings

A setting is given by a flag, a variable of the environment, or a line of the TOML file that `--config` (or `PARALLAX_CONFIG`) names. A flag wins over
a variable, that over the file, that over the default; of several variables in one cell the first that is set wins. An empty variable is as none.
`parallax config check` shows what holds and who said so, with secrets masked, or lists every mistake at once; nothing starts with a wrong setting.

*Where it stands in the file*: `redis.host` is the line `host = \"..\"` below `[redis]`. **Secret** values are never shown and never taken on a command line: give the
variable, the variable with `_FILE` behind it and the path of a file, or the flag with such a path. An **address** may carry a password; it is shown
without it, and may be given by a file in the same way.

`SIGHUP` reads all of this again ([operations.md](operations.md) says what of it takes effect).
";

/// The page, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let forms = forms();
    let mut page = HEAD.to_owned();
    let mut heading = "";
    for definition in DEFINITIONS {
        if definition.heading() != heading {
            heading = definition.heading();
            page += &format!(
                "\n## {heading}\n\n| in the file | variable | flag | default | takes | what it does |\n|---|---|---|---|---|---|\n"
            );
        }
        page += &row(definition, forms.get(definition.key).map(String::as_str));
    }
    page
}

/// Which values each key takes: what the reader says of them while it reads the defaults.
fn forms() -> BTreeMap<String, String> {
    let mut errors = Vec::new();
    let resolved = sources::resolve(&Inputs::default(), &mut errors);
    let mut reader = Reader::new(&resolved, &mut errors);
    build::build(&mut reader);
    reader.forms
}

fn row(definition: &Definition, form: Option<&str>) -> String {
    let variables: Vec<String> = definition.variables.iter().map(|name| format!("`{name}`")).collect();
    let default = definition.default.map_or_else(|| "none".to_owned(), |default| format!("`{default}`"));
    let mut takes = form.unwrap_or("text").to_owned();
    if let Some(unit) = definition.unit() {
        takes += &format!(" {unit}");
    }
    match definition.secrecy {
        Secrecy::Plain => {}
        Secrecy::Address => takes = "**address**".to_owned(),
        Secrecy::Secret => takes = format!("**secret**: {takes}"),
    }
    let cells = [
        format!("`{}`", definition.key),
        variables.join("<br>"),
        format!("`--{}`", definition.flag),
        default,
        takes,
        definition.help.replace('|', "\\|"),
    ];
    format!("| {} |\n", cells.join(" | "))
}
