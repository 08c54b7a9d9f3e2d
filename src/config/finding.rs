//! What the check of a config found: where, what is wrong and why, and what to do.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Whether a config can be used in spite of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The config cannot be used.
    Error,
    /// The config can be used, and somebody should look at it.
    Warning,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A place in a config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line and the column, counting from 1, the column in characters; `None` if the finding is about the whole
    /// file, or about a key that is not there.
    pub position: Option<(u32, u32)>,
    /// The key with its table, such as `synapse.url`; empty if the finding is about no key.
    pub key: String,
}

impl Place {
    /// A key without a position.
    pub fn key(file: &Path, key: impl Into<String>) -> Self {
        Self { file: file.to_owned(), position: None, key: key.into() }
    }

    /// An error here.
    pub fn error(&self, problem: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Level::Error, problem.into(), mend.into())
    }

    /// A warning here.
    pub fn warning(&self, problem: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Level::Warning, problem.into(), mend.into())
    }

    fn finding(&self, level: Level, problem: String, mend: String) -> Finding {
        Finding { level, at: self.clone(), problem, mend }
    }
}

/// `file:line:column: key`, the form that editors can jump to.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        Ok(())
    }
}

/// One thing that is wrong, or doubtful, with a config. It never holds a secret, nor a line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{level}: {at}: {problem}\n    {mend}")]
pub struct Finding {
    /// Whether the config can be used in spite of it.
    pub level: Level,
    /// Where.
    pub at: Place,
    /// What is wrong, and why it matters.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
}

impl Finding {
    /// Whether the config cannot be used.
    pub fn is_error(&self) -> bool {
        self.level == Level::Error
    }
}
