//! Errors of a configuration, each with its key, its place and its remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Place where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a configuration file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A `--set`, as it was typed.
    Set(String),
    /// Nowhere: the key's default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line } => write!(f, "{}:{line}", path.display()),
            Place::Set(text) => write!(f, "--set {text}"),
            Place::Default => f.write_str("default"),
        }
    }
}

impl Place {
    /// What an error begins with: the place and a colon, or nothing for a default.
    fn prefix(&self) -> String {
        match self {
            Place::Default => String::new(),
            written => format!("{written}: "),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },

    /// The file is not TOML.
    #[error("{place}: not valid TOML: {message}")]
    Syntax {
        /// The place of the mistake.
        place: Place,
        /// The parser's message.
        message: String,
    },

    /// A `--set` without an equals sign or without a key.
    #[error("--set {text}: expected key=value, as in --set train.steps=100")]
    SetForm {
        /// Text as typed.
        text: String,
    },

    /// A key no program knows.
    #[error("{place}: unknown key `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// The key.
        key: String,
        /// Place of the key.
        place: Place,
        /// The known key with the smallest edit distance.
        nearest: String,
    },

    /// A value of the wrong type.
    #[error("{}`{key}` must be {expected}, found {found}", place.prefix())]
    Type {
        /// The key.
        key: String,
        /// Place of the value.
        place: Place,
        /// Expected values, in words.
        expected: String,
        /// Value found.
        found: String,
    },

    /// A value of the right type that cannot be used.
    #[error("{}`{key}` {problem}", place.prefix())]
    Value {
        /// The key.
        key: String,
        /// Place of the value.
        place: Place,
        /// Problem and remedy.
        problem: String,
    },

    /// Fields of the model that do not fit together.
    #[error("{}model.{message}", place.prefix())]
    Model {
        /// Place of the field that the message names.
        place: Place,
        /// The field and what is wrong with it.
        message: String,
    },
}
