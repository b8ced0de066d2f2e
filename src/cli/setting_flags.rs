//! A flag for every setting, made from their definitions, so that help cannot forget one.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::settings::definitions::{DEFINITIONS, Definition, Secrecy};
use crate::settings::sources::Inputs;

/// The settings that were given as flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingFlags {
    given: Vec<(&'static str, String)>,
    config: Option<PathBuf>,
}

impl SettingFlags {
    /// The flags together with what else this process was given.
    pub(super) fn inputs(self) -> Inputs {
        Inputs::of_process(self.given, self.config)
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config").long("config").value_name("FILE").help(
            "A TOML file with settings: a table for each part, like [redis] host = \"..\" [env: PARALLAX_CONFIG]",
        );
        DEFINITIONS.iter().map(argument).fold(command.arg(config), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<String>("config").map(PathBuf::from);
        self.given = DEFINITIONS
            .iter()
            .filter_map(|definition| Some((definition.key, matches.get_one::<String>(definition.key)?.clone())))
            .collect();
        Ok(())
    }
}

fn argument(definition: &'static Definition) -> Arg {
    let is_switch = matches!(definition.default, Some("true" | "false"));
    let argument = Arg::new(definition.key)
        .long(definition.flag)
        .help_heading(definition.heading())
        .hide_short_help(definition.is_rare())
        .help(help(definition))
        .value_name(if definition.secrecy == Secrecy::Secret { "FILE" } else { "VALUE" });
    // `--migrate-on-start` alone says yes.
    if is_switch { argument.num_args(0..=1).require_equals(true).default_missing_value("true") } else { argument }
}

fn help(definition: &Definition) -> String {
    let variables = definition.variables.join(", ");
    let file = if definition.secrecy == Secrecy::Plain { "" } else { ", or a path in .._FILE" };
    let default = definition.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    format!("{} [env: {variables}{file}]{default}", definition.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> SettingFlags {
        let command = SettingFlags::augment_args(Command::new("parallax").no_binary_name(true));
        SettingFlags::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
    }

    #[test]
    fn a_flag_reaches_its_setting() {
        let flags = parsed(&["--redis-host", "h", "--migrate-on-start", "--enable-postgres=false", "--config", "f"]);
        let given = [("migrate_on_start", "true"), ("redis.host", "h"), ("postgres.enabled", "false")];
        assert_eq!(flags.given, given.map(|(key, value)| (key, value.to_owned())));
        assert_eq!(flags.config, Some(PathBuf::from("f")));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        SettingFlags::augment_args(Command::new("parallax")).debug_assert();
    }
}
