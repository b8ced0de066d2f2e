//! Turns what was said into types. A mistake is noted and a stand-in returned, so that the rest is checked too.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;
use url::Url;

use crate::settings::SettingError;
use crate::settings::definitions::definition;
use crate::settings::sources::{Given, Resolved};

/// Reads one setting after the other and gathers what is wrong.
pub(super) struct Reader<'a> {
    pub(super) resolved: &'a Resolved,
    pub(super) errors: &'a mut Vec<SettingError>,
    /// In words, which values each key takes; the reference of the settings is made of it.
    pub(super) forms: BTreeMap<String, String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(resolved: &'a Resolved, errors: &'a mut Vec<SettingError>) -> Self {
        Self { resolved, errors, forms: BTreeMap::new() }
    }

    /// Notes which values `key` takes.
    pub(super) fn takes(&mut self, key: &str, form: impl Into<String>) {
        self.forms.insert(key.to_owned(), form.into());
    }

    /// Notes that both keys take what is known of one of them.
    pub(super) fn takes_the_same(&mut self, one: &str, other: &str) {
        let form = self.forms.get(one).or_else(|| self.forms.get(other)).cloned();
        for key in [one, other] {
            self.forms.extend(form.clone().map(|form| (key.to_owned(), form)));
        }
    }

    /// Notes what is wrong with `key`, under the name by which it was given.
    pub(super) fn refuse(&mut self, key: &str, problem: impl Into<String>) {
        let source = self.resolved.winner(key).map(|given| given.source.clone());
        let name = match source {
            Some(source) if self.resolved.is_given(key) => source.to_string(),
            Some(_) | None => definition(key).map_or(key, |definition| definition.name()).to_owned(),
        };
        let error = SettingError::new(name, problem);
        // What holds for several signals is read for each of them.
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    pub(super) fn optional(&self, key: &str) -> Option<String> {
        self.given(key).map(|given| given.text().to_owned())
    }

    pub(super) fn text(&mut self, key: &str) -> String {
        self.optional(key).unwrap_or_default()
    }

    pub(super) fn secret(&self, key: &str) -> Option<SecretString> {
        self.given(key).map(|given| given.value.clone())
    }

    /// Texts separated by commas.
    pub(super) fn list(&mut self, key: &str) -> Vec<String> {
        self.forms.entry(key.to_owned()).or_insert_with(|| "names, separated by commas".to_owned());
        let text = self.optional(key).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// Bearer tokens separated by commas.
    pub(super) fn tokens(&mut self, key: &str) -> Vec<SecretString> {
        self.takes(key, "visible ASCII characters, separated by commas");
        let tokens = self.list(key);
        if tokens.iter().any(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            self.refuse(key, "a token may hold visible ASCII characters only, since it travels in a header");
        }
        tokens.into_iter().map(SecretString::from).collect()
    }

    /// Origins of web pages, separated by commas, each as a browser writes it.
    pub(super) fn origins(&mut self, key: &str) -> Vec<String> {
        self.takes(key, "origins, separated by commas");
        let origins = self.list(key);
        for origin in &origins {
            let written = Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            match written.map(|url| url.origin().ascii_serialization()) {
                Some(written) if written == *origin => {}
                Some(written) => self.refuse(key, format!("`{origin}` will not do: browsers write `{written}`")),
                // `*` is among them: on loopback, where no token is asked for, it would mean every page that is open.
                None => self.refuse(key, format!("`{origin}` is no origin: name each one, like https://app.example")),
            }
        }
        origins
    }

    pub(super) fn number<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        range: RangeInclusive<T>,
    ) -> T {
        self.takes(key, format!("{} to {}", range.start(), range.end()));
        let text = self.text(key);
        match text.trim().parse::<T>() {
            Ok(number) if range.contains(&number) => number,
            Ok(_) | Err(_) => {
                let mut problem =
                    format!("`{text}` will not do: give a whole number from {} to {}", range.start(), range.end());
                if text.starts_with("tcp://") {
                    // The form of Kubernetes' service links, which nobody writes by hand.
                    problem += ". Kubernetes sets this variable for a Service of that name: set it yourself, or \
                                enableServiceLinks: false";
                }
                self.refuse(key, problem);
                *range.start()
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> bool {
        self.takes(key, "`true` or `false`");
        let text = self.text(key);
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.refuse(key, format!("`{text}` will not do: give true or false"));
                false
            }
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)], fallback: T) -> T {
        let quoted: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        self.takes(key, quoted.join(", "));
        let text = self.text(key);
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text.trim()) {
            return *choice;
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.refuse(key, format!("`{text}` will not do: give one of {}", names.join(", ")));
        fallback
    }

    pub(super) fn address(&mut self, key: &str) -> SocketAddr {
        self.takes(key, "address:port");
        let text = self.text(key);
        let named = text.trim().strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        match named.as_deref().unwrap_or(text.trim()).parse() {
            Ok(address) => address,
            Err(_) => {
                self.refuse(key, format!("`{text}` will not do: give an address and a port, like 127.0.0.1:8380"));
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
            }
        }
    }

    /// A file that must be there.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        self.takes(key, "path of a file that is there");
        let path = PathBuf::from(self.optional(key)?);
        if let Err(error) = std::fs::File::open(&path) {
            self.refuse(key, format!("{} cannot be read: {error}", path.display()));
        }
        Some(path)
    }

    fn given(&self, key: &str) -> Option<&Given> {
        self.resolved.winner(key).filter(|given| !given.text().is_empty())
    }
}
