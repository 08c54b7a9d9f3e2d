//! Problems of a template that are found when it is compiled: what is wrong with it in Synapse too, and what this
//! program will not do.

use std::fmt;

use crate::domain::MappedField;

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// Synapse would not load the template either.
    Broken,
    /// Synapse would load it; this program cannot be sure to give the same answer, or must not use the value.
    Refused,
}

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateProblem {
    /// Which template.
    pub field: MappedField,
    /// Wrong in Synapse too, or refused by this program.
    pub kind: ProblemKind,
    /// The line within the template, counting from 1, if it is known.
    pub line: Option<usize>,
    /// The column within the line, counting from 1, if it is known.
    pub column: Option<usize>,
    /// What is wrong, and why.
    pub why: String,
    /// What to write instead, if there is something.
    pub instead: Option<String>,
}

impl fmt::Display for TemplateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field.template_key())?;
        if let Some(line) = self.line {
            write!(f, " line {line}")?;
            if let Some(column) = self.column {
                write!(f, " column {column}")?;
            }
        }
        write!(f, ": {}", self.why)?;
        match &self.instead {
            Some(instead) => write!(f, "; {instead}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TemplateProblem {}
