//! Parsing of the command line and the environment. Neither an error nor `--help` shows a value, because any
//! value may be a secret: in the wrong variable, or in a URL.

use std::error::Error as _;
use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _, Error, FromArgMatches as _};

use super::Cli;

/// Length from which a value is also replaced within words. A shorter one, such as `1` or `x`, is a part of
/// words that have nothing to do with it.
const WITHIN_WORDS_CHARS_MIN: usize = 4;

/// Shown instead of a value.
const HIDDEN: &str = "***";

impl Cli {
    /// Parses the command line, or prints an error or the help and ends the process.
    #[must_use]
    pub fn from_command_line() -> Self {
        Self::from_args(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// # Errors
    /// If a flag is unknown or has an invalid value. The message contains no value.
    fn from_args(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, Error> {
        let mut command = without_environment(Self::command());
        let matches = command.try_get_matches_from_mut(args).map_err(without_values)?;
        Self::from_arg_matches(&matches).map_err(|error| without_values(error.format(&mut command)))
    }
}

/// Removes the values of variables from the help of all commands.
fn without_environment(command: Command) -> Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_environment)
}

/// Replaces everything in an error that the user has written, except names of flags.
fn without_values(mut error: Error) -> Error {
    let text = |error: &Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let value = text(&error, ContextKind::InvalidValue);
    if let (ErrorKind::ValueValidation, Some(value), Some(cause)) = (error.kind(), &value, error.source()) {
        let argument = text(&error, ContextKind::InvalidArg).unwrap_or_default();
        // Some causes repeat the value.
        let cause = hide(&cause.to_string(), value);
        let message =
            format!("invalid value for '{argument}': {cause}\n\nFor more information, try '--help'.\n");
        return Error::raw(ErrorKind::ValueValidation, message);
    }
    let hidden = || ContextValue::String(HIDDEN.to_owned());
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidSubcommand] {
        // An empty value means that none was written, and the error says so.
        if text(&error, kind).is_none_or(|text| !text.is_empty()) && error.get(kind).is_some() {
            error.insert(kind, hidden());
        }
    }
    let is_unknown = error.kind() == ErrorKind::UnknownArgument;
    if is_unknown && text(&error, ContextKind::InvalidArg).is_some_and(|argument| !is_flag(&argument)) {
        error.insert(ContextKind::InvalidArg, hidden());
        // The tip repeats the argument.
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(Vec::<StyledStr>::new()));
    }
    error
}

/// Replaces a value in the cause of an error.
fn hide(cause: &str, value: &str) -> String {
    let is_long = value.chars().count() >= WITHIN_WORDS_CHARS_MIN;
    let mut hidden = String::new();
    let mut end = 0;
    for (at, _) in cause.match_indices(value) {
        let after = &cause[at + value.len()..];
        let touches_word =
            cause[..at].ends_with(char::is_alphanumeric) || after.starts_with(char::is_alphanumeric);
        if is_long || !touches_word {
            hidden.push_str(&cause[end..at]);
            hidden.push_str("it");
            end = at + value.len();
        }
    }
    hidden + &cause[end..]
}

/// Whether an unknown argument is a misspelled name of a flag, which may be shown.
fn is_flag(argument: &str) -> bool {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
    name.is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "m4rker";

    fn error(args: &[&str]) -> String {
        Cli::from_args([&["warden"], args].concat()).err().expect("an error").to_string()
    }

    #[test]
    fn errors_name_the_flag_and_show_no_value() {
        for (args, named) in [
            (&["serve", "--listen", MARKER][..], "--listen"),
            (&["serve", "--pending-max=m4rker"], "--pending-max"),
            (&["serve", "--trusted-proxies=m4rker"], "--trusted-proxies"),
            (&["serve", "--jwks-allow-http=m4rker"], "--jwks-allow-http"),
            (&["serve", "--auth-cookie=m4rker ;"], "--auth-cookie"),
            (&["serve", "--jwt-secrt=m4rker"], "--jwt-secret"),
            (&["serve", "--log-json=m4rker"], "--log-json"),
            (&["serve", MARKER], "***"),
            (&["audit", "--json", MARKER], "***"),
            (&[MARKER], "***"),
            (&["serve", "-----BEGIN PRIVATE KEY-----\nm4rker"], "***"),
            (&["serve", "--m4rker"], "***"),
        ] {
            let error = error(args);
            assert!(!error.contains(MARKER) && error.contains(named), "{args:?}: {error}");
        }
        let error_without_value = error(&["migrate", "--tables"]);
        assert!(error_without_value.contains("a value is required for '--tables"), "{error_without_value}");
        // Causes say what is expected, without the value. A short value does not garble them.
        for value in ["99999999", "17", "1"] {
            let error = error(&["serve", "--message-bytes", value]);
            assert!(error.contains("it is not in 1024..=16777216"), "{error}");
        }
        assert_eq!(hide("x: expected \"x\", x", "x"), "it: expected \"it\", it");
        assert_eq!(hide("user:hunter2@host, hunter22", "hunter2"), "user:it@host, it2");
    }
}
