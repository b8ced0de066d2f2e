//! Where settings come from: flags, the environment, a file, the defaults; the first that speaks wins, and what it said
//! is kept together with who said it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use crate::settings::definitions::{DEFINITIONS, Definition, Secrecy};
use crate::settings::{SettingError, file};

/// Variables with our prefix that are no settings of the sidecar.
const OTHER_VARIABLES: [&str; 5] =
    ["PARALLAX_CONFIG", "PARALLAX_POSTGRES_BIN", "PARALLAX_REDIS_BIN", "PARALLAX_RECORDING", "PARALLAX_SOAK"];

/// What a process was given: pure data, so that a test can be a process.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The flags that were given: (key, value); for a secret the value is the path of a file.
    pub flags: Vec<(&'static str, String)>,
    /// The file that `--config` named.
    pub config: Option<PathBuf>,
    /// The environment.
    pub environment: BTreeMap<String, SecretString>,
}

impl Inputs {
    /// What this process was given, beside the flags.
    #[must_use]
    pub fn of_process(flags: Vec<(&'static str, String)>, config: Option<PathBuf>) -> Self {
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned().into()))
            .collect();
        Self { flags, config, environment }
    }

    /// An environment of these variables and nothing else.
    #[must_use]
    pub fn of_variables(variables: &[(&str, &str)]) -> Self {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Self { flags: Vec::new(), config: None, environment }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        // An empty variable is how compose files and charts say "not set".
        self.environment.get(name).map(ExposeSecret::expose_secret).filter(|value| !value.is_empty())
    }
}

/// Who said it. The order is the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A flag, by its name.
    Flag(String),
    /// A variable of ours, by its name.
    OwnVariable(String),
    /// A variable that the application may read as well, by its name.
    Variable(String),
    /// The file, by the key.
    File(String),
    /// Nobody.
    Default,
}

impl Source {
    /// Sources of one rank are of one mind: when they contradict each other, that is a mistake and not precedence.
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self {
            Self::Flag(_) => 0,
            Self::OwnVariable(_) => 1,
            Self::Variable(_) => 2,
            Self::File(_) => 3,
            Self::Default => 4,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::OwnVariable(name) | Self::Variable(name) => f.write_str(name),
            Self::File(place) => f.write_str(place),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and who said it.
#[derive(Clone, Debug)]
pub struct Given {
    /// What was said. Secret or not, `Debug` does not show it.
    pub value: SecretString,
    /// Who said it.
    pub source: Source,
}

impl Given {
    /// What was said.
    #[must_use]
    pub fn text(&self) -> &str {
        self.value.expose_secret()
    }
}

/// For each key everything that was said about it, the winner first.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// By key.
    pub given: BTreeMap<&'static str, Vec<Given>>,
    /// What looks like a mistake and is none that we can be sure of.
    pub warnings: Vec<String>,
}

impl Resolved {
    /// What holds for `key`.
    #[must_use]
    pub fn winner(&self, key: &str) -> Option<&Given> {
        self.given.get(key)?.first()
    }

    /// Whether somebody said something about `key`.
    #[must_use]
    pub fn is_given(&self, key: &str) -> bool {
        self.winner(key).is_some_and(|given| given.source != Source::Default)
    }
}

/// Gathers all that was said.
pub(super) fn resolve(inputs: &Inputs, errors: &mut Vec<SettingError>) -> Resolved {
    let file = config_path(inputs).and_then(|(name, path)| file::read(name, path, errors));
    let mut resolved = Resolved { warnings: unknown_variables(inputs), ..Resolved::default() };
    for definition in DEFINITIONS {
        let mut all = Vec::new();
        flag(inputs, definition, &mut all, errors);
        variables(inputs, definition, &mut all, errors);
        if let Some((path, values)) = &file {
            in_file(path, values, definition, &mut all, errors);
        }
        all.extend(definition.default.map(|value| Given { value: value.into(), source: Source::Default }));
        resolved.given.insert(definition.key, all);
    }
    resolved
}

fn flag(inputs: &Inputs, definition: &Definition, all: &mut Vec<Given>, errors: &mut Vec<SettingError>) {
    let Some((_, value)) = inputs.flags.iter().rev().find(|(key, _)| *key == definition.key) else {
        return;
    };
    let source = Source::Flag(definition.flag.to_owned());
    match definition.secrecy {
        Secrecy::Plain | Secrecy::Address => all.push(Given { value: value.as_str().into(), source }),
        Secrecy::Secret => read_secret(&format!("--{}", definition.flag), value, source, all, errors),
    }
}

fn variables(inputs: &Inputs, definition: &Definition, all: &mut Vec<Given>, errors: &mut Vec<SettingError>) {
    for name in definition.variables {
        let of = |name: &str| {
            if name.starts_with("PARALLAX_") {
                Source::OwnVariable(name.to_owned())
            } else {
                Source::Variable(name.to_owned())
            }
        };
        let direct = inputs.variable(name);
        let file_name = format!("{name}_FILE");
        let file = if definition.secrecy == Secrecy::Plain { None } else { inputs.variable(&file_name) };
        if direct.is_some() && file.is_some() {
            errors.push(SettingError::new(*name, format!("{file_name} is set as well: keep one of them")));
        }
        all.extend(direct.map(|value| Given { value: value.into(), source: of(name) }));
        if let Some(path) = file {
            read_secret(&file_name, path, of(&file_name), all, errors);
        }
    }
}

fn in_file(
    path: &Path,
    values: &BTreeMap<String, String>,
    definition: &Definition,
    all: &mut Vec<Given>,
    errors: &mut Vec<SettingError>,
) {
    let place = |key: &str| format!("{}: {key}", path.display());
    let key = definition.key;
    let direct = values.get(key).map(|value| Given { value: value.as_str().into(), source: Source::File(place(key)) });
    let file_key = format!("{key}_file");
    let file = if definition.secrecy == Secrecy::Plain { None } else { values.get(&file_key) };
    if direct.is_some() && file.is_some() {
        errors.push(SettingError::new(place(key), format!("{file_key} is set as well: keep one of them")));
    }
    all.extend(direct);
    if let Some(secret) = file {
        read_secret(&place(&file_key), secret, Source::File(place(&file_key)), all, errors);
    }
}

/// Reads a file that holds a secret. One line break at its end is the editor's, not the secret's.
fn read_secret(name: &str, path: &str, source: Source, all: &mut Vec<Given>, errors: &mut Vec<SettingError>) {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let value = text.strip_suffix('\r').unwrap_or(text).into();
            all.push(Given { value, source });
        }
        Err(error) => errors.push(SettingError::new(name, format!("{path} cannot be read: {error}"))),
    }
}

/// The file that was named, and by what.
fn config_path(inputs: &Inputs) -> Option<(&'static str, PathBuf)> {
    let named = inputs.config.clone().map(|path| ("--config", path));
    named.or_else(|| Some(("PARALLAX_CONFIG", PathBuf::from(inputs.variable("PARALLAX_CONFIG")?))))
}

/// Variables with our prefix that mean nothing: a slip of the pen, most likely.
fn unknown_variables(inputs: &Inputs) -> Vec<String> {
    let is_setting = |name: &str| {
        OTHER_VARIABLES.contains(&name)
            || DEFINITIONS.iter().any(|definition| {
                definition.variables.iter().any(|variable| {
                    *variable == name
                        || definition.secrecy != Secrecy::Plain && name.strip_suffix("_FILE") == Some(variable)
                })
            })
    };
    // Kubernetes sets these in every pod beside a Service that is named `parallax` or `parallax-..`.
    let is_service_link = |name: &str| name.contains("_PORT") || name.contains("_SERVICE_");
    let names = inputs.environment.keys().filter(|name| name.starts_with("PARALLAX_"));
    names
        .filter(|name| !is_setting(name) && !is_service_link(name))
        .map(|name| format!("{name} is set, but there is no such setting"))
        .collect()
}
