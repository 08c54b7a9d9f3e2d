//! What is not given is asked for on a terminal; in a script everything that is missing is said at once.

use std::io::{self, IsTerminal as _, Write as _};

use secrecy::SecretString;

use crate::cli::output::{Exit, complain};

/// The questions of one use of the program.
pub(super) struct Questions {
    terminal: bool,
    missing: Vec<&'static str>,
}

impl Questions {
    pub(super) fn new() -> Self {
        let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self { terminal, missing: Vec::new() }
    }

    /// Whether there is somebody who could answer.
    pub(super) fn can_be_asked(&self) -> bool {
        self.terminal
    }

    /// What is known, else what somebody types, else the default. In a script without a default the flag is missing.
    pub(super) fn text(
        &mut self,
        flag: &'static str,
        question: &str,
        known: Option<String>,
        default: Option<&str>,
    ) -> String {
        if let Some(known) = known {
            return known;
        }
        let typed = if self.terminal { type_in(question, default) } else { None };
        match typed.or_else(|| default.map(str::to_owned)) {
            Some(text) => text,
            None => {
                self.missing.push(flag);
                String::new()
            }
        }
    }

    /// A password that somebody types, which is not shown. In a script the flag is missing.
    pub(super) fn password(&mut self, flag: &'static str, question: &str) -> SecretString {
        let typed =
            if self.terminal { rpassword::prompt_password(format!("{question}: ")).ok() } else { None };
        match typed.filter(|typed| !typed.is_empty()) {
            Some(typed) => typed.into(),
            None => {
                self.missing.push(flag);
                String::new().into()
            }
        }
    }

    /// Ends the questions.
    pub(super) fn finish(self) -> Result<(), Exit> {
        if self.missing.is_empty() {
            return Ok(());
        }
        complain(&format!(
            "error: some things are not known, and nobody can be asked here\n  → give {}",
            self.missing.join(", ")
        ));
        Err(Exit::Usage)
    }
}

/// Asks until something is typed or there is a default; `None` if nobody types any more.
fn type_in(question: &str, default: Option<&str>) -> Option<String> {
    let hint = default.map_or_else(String::new, |default| format!(" [{default}]"));
    loop {
        let _ = write!(io::stderr().lock(), "{question}{hint}: ");
        let mut typed = String::new();
        if io::stdin().read_line(&mut typed).ok()? == 0 {
            return None;
        }
        match (typed.trim(), default) {
            ("", None) => {}
            ("", Some(default)) => return Some(default.to_owned()),
            (typed, _) => return Some(typed.to_owned()),
        }
    }
}
