//! Flags from environment variables. An empty variable counts as unset, as charts render it for a value that nobody set,
//! and an error names the variable that it comes from.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory};

use super::{Command, CommandLine, wrong_value};

/// Reads a command line, and with `variable` the variables of the flags that it does not have.
///
/// # Errors
/// As [`super::parse`].
pub(super) fn parse(
    mut arguments: Vec<OsString>,
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<CommandLine, clap::Error> {
    let mut line = CommandLine::read(&arguments).map_err(|error| match error.kind() {
        // The help shows the variables.
        ErrorKind::DisplayHelp => help(&arguments).unwrap_or(error),
        _ => error,
    })?;
    line.check()
        .map_err(|(flag, problem)| wrong_value(flag, &problem))?;
    if matches!(line.command, Some(Command::Crd)) {
        return Ok(line);
    }
    for flag in CommandLine::command().get_arguments() {
        let (Some(long), Some(name)) = (flag.get_long(), flag.get_env()) else {
            continue;
        };
        if is_given(long, &arguments) {
            continue;
        }
        let Some(value) = variable(name).and_then(|value| stated(flag, value)) else {
            continue;
        };
        let mut argument = OsString::from(format!("--{long}="));
        argument.push(value);
        arguments.push(argument);
        let place = format!("{} (--{long})", name.to_string_lossy());
        line = CommandLine::read(&arguments).map_err(|error| at(error, &place))?;
        line.check()
            .map_err(|(_, problem)| wrong_value(&place, &problem))?;
    }
    Ok(line)
}

/// The command without its variables.
pub(super) fn ignored(command: clap::Command) -> clap::Command {
    let without = |flag: Arg| flag.env(None::<&'static str>);
    command
        .mut_args(without)
        .mut_subcommand("run", |run| run.mut_args(without))
}

fn help(arguments: &[OsString]) -> Option<clap::Error> {
    CommandLine::command().try_get_matches_from(arguments).err()
}

/// True where the command line has the flag `--long`, with its value in the same argument or in the next.
fn is_given(long: &str, arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| {
        let bytes = argument.as_encoded_bytes();
        let rest = bytes
            .strip_prefix(b"--")
            .and_then(|rest| rest.strip_prefix(long.as_bytes()));
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
    })
}

/// The value of a variable, without the empty parts of a list; `None` where nothing is left.
fn stated(flag: &Arg, value: OsString) -> Option<OsString> {
    let value = match (flag.get_value_delimiter(), value.to_str()) {
        (Some(delimiter), Some(list)) => {
            let parts = list.split(delimiter).map(str::trim);
            let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
            parts.join(&delimiter.to_string()).into()
        }
        (_, Some(text)) if text.trim().is_empty() => OsString::new(),
        _ => value,
    };
    Some(value).filter(|value| !value.is_empty())
}

/// Names `place` in an error instead of the flag.
fn at(mut error: clap::Error, place: &str) -> clap::Error {
    error.insert(ContextKind::InvalidArg, ContextValue::String(place.to_owned()));
    error
}
