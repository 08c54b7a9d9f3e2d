//! Reads a TOML document key by key, so that one mistake does not hide the next: every key that is asked for
//! becomes a known one, a value of the wrong type is one finding, and what was never asked for is unknown.
//!
//! No finding shows a value: an inline secret would end up in a log.

use std::{collections::BTreeSet, ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::finding::{Finding, Place};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Place,
}

/// A parsed file, from which the tables are taken one by one.
pub(super) struct Document<'i> {
    file: &'i Path,
    text: &'i str,
    tables: DeTable<'i>,
    /// All keys that were asked for, with their table.
    known: BTreeSet<(&'static str, &'static str)>,
    /// The keys that were never asked for.
    unknown: Vec<(&'static str, String, Place)>,
    findings: Vec<Finding>,
}

impl<'i> Document<'i> {
    /// Parses a file. If it is no TOML, all places where it is not are found at once, as far as the parser can go on.
    pub(super) fn parse(file: &'i Path, text: &'i str) -> Result<Self, Vec<Finding>> {
        let (tables, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // `message` quotes nothing of the file; `Display` would.
            return Err(errors
                .iter()
                .map(|error| {
                    place(file, text, error.span(), String::new()).error(
                        format!("this is not TOML: {}", error.message()),
                        "Texts stand in quotes, tables in [brackets], each key once in its table.",
                    )
                })
                .collect());
        }
        Ok(Self {
            file,
            text,
            tables: tables.into_inner(),
            known: BTreeSet::new(),
            unknown: Vec::new(),
            findings: Vec::new(),
        })
    }

    /// All keys that were asked for, each with its table.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeSet<(&'static str, &'static str)> {
        &self.known
    }

    /// Adds a finding.
    pub(super) fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Opens a table; one that is not there is like one without keys.
    pub(super) fn table(&mut self, name: &'static str) -> Table<'_, 'i> {
        self.known.insert(("", name));
        let mut at = Place::key(self.file, name);
        let mut keys = DeTable::new();
        if let Some(value) = self.tables.remove(name) {
            at = place(self.file, self.text, Some(value.span()), name.to_owned());
            match value.into_inner() {
                DeValue::Table(found) => keys = found,
                other => {
                    let finding = at.error(
                        format!("this is a table, but {} is given", kind(&other)),
                        format!("Write [{name}] on a line of its own, and the keys below it."),
                    );
                    self.findings.push(finding);
                }
            }
        }
        Table { document: self, name, at, keys }
    }

    /// What was found so far; nothing is said about keys that were never asked for.
    pub(super) fn findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Closes the document: what is left was never asked for.
    pub(super) fn close(mut self) -> Vec<Finding> {
        for (key, value) in std::mem::take(&mut self.tables) {
            let at = place(self.file, self.text, Some(key.span()), key.get_ref().to_string());
            // A key above the first table belongs into one.
            let home = self.known.iter().find(|(table, known)| !table.is_empty() && *known == key.get_ref());
            let mend = match (value.get_ref(), home) {
                (DeValue::Table(_), _) | (_, None) => {
                    let names =
                        self.known.iter().filter(|(table, _)| table.is_empty()).map(|(_, name)| *name);
                    match nearest(key.get_ref(), names) {
                        Some(name) => format!("Did you mean [{name}]?"),
                        None => "Take it out; config.example.toml has all tables and keys.".to_owned(),
                    }
                }
                (_, Some((table, _))) => format!("It belongs into [{table}]."),
            };
            self.findings.push(if names_a_secret(key.get_ref()) {
                inline_secret(&at, "Write the secret into a file of its own and take it out here.")
            } else {
                at.error("there is no such table or key", mend)
            });
        }
        for (table, key, at) in std::mem::take(&mut self.unknown) {
            let siblings = || self.known.iter().filter(|(of, _)| *of == table).map(|(_, known)| *known);
            let elsewhere = self.known.iter().find(|(of, known)| !of.is_empty() && *known == key);
            self.findings.push(if names_a_secret(&key) {
                let as_file = format!("{}_file", key.trim_end_matches("_file"));
                let mend = match nearest(&as_file, siblings().filter(|known| known.ends_with("_file"))) {
                    Some(known) => format!(
                        "Write the secret into a file that only this service can read, and name that file: {known} = \
                         \"/etc/defguard-synapse-sync/…\". If others could read this file, make a new secret."
                    ),
                    None => "Take it out. If others could read this file, make a new secret.".to_owned(),
                };
                inline_secret(&at, mend)
            } else if let Some((home, _)) = elsewhere {
                at.error("there is no such key in this table", format!("It belongs into [{home}]."))
            } else if let Some(known) = nearest(&key, siblings()) {
                at.error("there is no such key", format!("Did you mean `{known}`?"))
            } else {
                at.error("there is no such key", "Take it out; config.example.toml has all tables and keys.")
            });
        }
        self.findings
    }
}

/// One table, from which keys are taken.
pub(super) struct Table<'d, 'i> {
    document: &'d mut Document<'i>,
    name: &'static str,
    at: Place,
    keys: DeTable<'i>,
}

impl Table<'_, '_> {
    /// The place of a key that is not there: that of its table.
    pub(super) fn missing(&self, key: &str) -> Place {
        Place { key: format!("{}.{key}", self.name), ..self.at.clone() }
    }

    /// Adds a finding.
    pub(super) fn find(&mut self, finding: Finding) {
        self.document.find(finding);
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<At<String>> {
        self.take(key, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// A text that must be there; `why` says what it is needed for.
    pub(super) fn required_text(&mut self, key: &'static str, why: &str, mend: &str) -> Option<At<String>> {
        let given = self.keys.contains_key(key);
        let text = self.text(key);
        if !given {
            let finding = self.missing(key).error(format!("this key is missing: {why}"), mend);
            self.find(finding);
        }
        text
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key, "true or false", |value| value.as_bool()).map_or(default, |flag| flag.value)
    }

    /// A whole number in a range.
    pub(super) fn number(&mut self, key: &'static str, default: u32, range: Range<u32>, why: &str) -> u32 {
        let Some(number) = self.take(key, "a whole number", |value| {
            let digits = value.as_integer()?;
            i64::from_str_radix(digits.as_str(), digits.radix()).ok()
        }) else {
            return default;
        };
        match u32::try_from(number.value).ok().filter(|value| range.contains(value)) {
            Some(value) => value,
            None => {
                let last = range.end.saturating_sub(1);
                self.find(number.at.error(
                    format!("{} is out of range: {why}", number.value),
                    format!("Give a number from {} to {last}; the default is {default}.", range.start),
                ));
                default
            }
        }
    }

    /// A list of texts, empty if there is none.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let (file, text) = (self.document.file, self.document.text);
        let name = self.name;
        self.take(key, "a list of texts only, such as [\"a\", \"b\"]", |value| {
            let element = |value: &Spanned<DeValue<'_>>| {
                let at = place(file, text, Some(value.span()), format!("{name}.{key}"));
                Some(At { value: value.get_ref().as_str()?.to_owned(), at })
            };
            value.as_array()?.iter().map(element).collect()
        })
    }

    /// A duration, written like `30s`, in a range.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let default_is = format!("the default is \"{}\"", humantime::format_duration(default));
        self.bounded_duration(key, &default_is, least, most).unwrap_or(default)
    }

    /// A duration in a range that need not be given.
    pub(super) fn duration_if_given(
        &mut self,
        key: &'static str,
        least: Duration,
        most: Duration,
    ) -> Option<Duration> {
        self.bounded_duration(key, "there is no default", least, most)
    }

    fn bounded_duration(
        &mut self,
        key: &'static str,
        default_is: &str,
        least: Duration,
        most: Duration,
    ) -> Option<Duration> {
        let text = self.take(key, "a duration in quotes, such as \"30s\" or \"5m\"", |value| {
            value.as_str().map(str::to_owned)
        })?;
        let show = humantime::format_duration;
        let mend = format!(
            "Write something like \"30s\", \"5m\" or \"1h 30m\", from {} to {}; {default_is}.",
            show(least),
            show(most),
        );
        match humantime::parse_duration(&text.value) {
            Ok(value) if (least..=most).contains(&value) => return Some(value),
            Ok(value) => self.find(text.at.error(format!("{} is out of range", show(value)), mend)),
            Err(_) => self.find(text.at.error("this is not a duration", mend)),
        }
        None
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)], default: T) -> T {
        let Some(word) = self.text(key) else { return default };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == word.value) {
            return *choice;
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let hint = nearest(&word.value, choices.iter().map(|(name, _)| *name))
            .map_or_else(String::new, |name| format!(" Did you mean \"{name}\"?"));
        self.find(
            word.at.error("there is no such choice", format!("Choose one of {}.{hint}", names.join(", "))),
        );
        default
    }

    /// Closes the table: what is left was never asked for.
    pub(super) fn close(self) {
        let (file, text, name) = (self.document.file, self.document.text, self.name);
        for (key, _) in self.keys {
            let at = place(file, text, Some(key.span()), format!("{name}.{}", key.get_ref()));
            self.document.unknown.push((name, key.into_inner().into_owned(), at));
        }
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(&DeValue<'_>) -> Option<T>,
    ) -> Option<At<T>> {
        self.document.known.insert((self.name, key));
        let value = self.keys.remove(key)?;
        let at =
            place(self.document.file, self.document.text, Some(value.span()), format!("{}.{key}", self.name));
        match read(value.get_ref()) {
            Some(value) => Some(At { value, at }),
            None => {
                let finding = at.error(
                    format!("this has the wrong type: {} is given", kind(value.get_ref())),
                    format!("Give {wanted}."),
                );
                self.find(finding);
                None
            }
        }
    }
}

/// The name most like a mistyped one, if there is one that is much like it.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(&wrong.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.84)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

fn inline_secret(at: &Place, mend: impl Into<String>) -> Finding {
    at.error("secrets are not taken from the config itself, which is copied, shown and kept in backups", mend)
}

/// Whether a key seems to hold a secret.
fn names_a_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["token", "password", "passwd", "secret", "api_key", "apikey"].iter().any(|word| key.contains(word))
        && !["_file", "_path"].iter().any(|end| key.ends_with(end))
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn place(file: &Path, text: &str, span: Option<Range<usize>>, key: String) -> Place {
    let position = span.and_then(|span| text.get(..span.start)).map(|before| {
        let line = before.rsplit('\n').next().unwrap_or_default();
        let count = |number: usize| u32::try_from(number + 1).unwrap_or(u32::MAX);
        (count(before.matches('\n').count()), count(line.chars().count()))
    });
    Place { file: file.to_owned(), position, key }
}
